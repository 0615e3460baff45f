"""A call of the API as a value, and the ways in which answers are read."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Generic, NamedTuple, TypeAlias, TypeVar

import httpx

from retrograd.client.errors import ApiError

Json: TypeAlias = dict[str, Any]
Rows: TypeAlias = list[Json]  # by names of their own: classes whose method is called list cannot say list[…]
Ids: TypeAlias = list[str]
T = TypeVar("T")

_LEAST_SECONDS = 1.0  # to be answered in, however late it is


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and how its answer is read."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    params: Mapping[str, Any] = field(default_factory=dict)  # those that are None are not sent
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    form: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, BinaryIO] = field(default_factory=dict)
    repeatable: bool = False  # sent twice it does no more than once
    seconds: float | None = None  # of silence to bear; the client's own unless given
    deadline: float = math.inf  # of the monotonic clock, after which no answer is of use

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """As httpx sends it. Files are read from their beginning each time."""
        return http.build_request(
            self.method,
            self.path,
            params={name: value for name, value in self.params.items() if value is not None},
            headers=dict(self.headers),
            json=self.json,
            data=dict(self.form) or None,
            files=dict(self.files) or None,
            timeout=httpx.Timeout(**self._bounds(http.timeout)),
        )

    def _bounds(self, usual: httpx.Timeout) -> dict[str, float | None]:
        bounds = usual.as_dict() if self.seconds is None else usual.as_dict() | {"read": self.seconds}
        left = max(self.deadline - time.monotonic(), _LEAST_SECONDS)
        if left == math.inf:
            return bounds
        return {name: left if bound is None else min(bound, left) for name, bound in bounds.items()}


class Seen(NamedTuple):
    """A job as an answer has it."""

    document: Json
    etag: str | None = None  # its version, if the answer named one


def document(answer: httpx.Response) -> Json:
    """A JSON object.

    Raises:
        ApiError: it is none, so that the server is none of ours.
    """
    with contextlib.suppress(ValueError):
        found = answer.json()
        if isinstance(found, dict):
            return found
    url = answer.request.url.copy_with(path="/", query=None)
    raise ApiError(answer.status_code, "not_retrograd", f"{url} does not answer like a Retrograd server")


def rows(answer: httpx.Response) -> list[Json]:
    """What a list holds."""
    return list(document(answer)["data"])


def job(answer: httpx.Response) -> Seen:
    """A job, and its version."""
    return Seen(document(answer), answer.headers.get("ETag"))


def changed_job(answer: httpx.Response) -> Seen | None:
    """A job; None where it is still the version that was known."""
    return None if answer.status_code == httpx.codes.NOT_MODIFIED else job(answer)


def content(answer: httpx.Response) -> bytes:
    """A file."""
    return answer.content


def nothing(answer: httpx.Response) -> None:
    """That it was done."""
