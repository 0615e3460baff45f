"""A call of the API as a value, and the ways in which answers are read."""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, Generic, NamedTuple, Self, TypeAlias, TypeVar

import httpx

from core.errors import CoreError
from retrograd.client.errors import stranger

Json: TypeAlias = dict[str, Any]
Rows: TypeAlias = list[Json]  # by names of their own: classes whose method is called list cannot say list[…]
Ids: TypeAlias = list[str]
T = TypeVar("T")
U = TypeVar("U")

_ID = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_FIGURE = re.compile("[a-z0-9_]+")
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

    def then(self, make: Callable[[T], U]) -> Call[U]:
        """The same call, of whose answer something is made while it is read."""
        return replace(self, read=lambda answer: make(self.read(answer)))  # type: ignore[arg-type, return-value]

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

    @classmethod
    def read(cls, document: Any, etag: str | None = None) -> Self:
        """What everything here relies on is as it should be. Paths and names of files are made of the id.

        Raises:
            ValueError: it is not; the server is none of ours, or of another version.
        """
        progress = _of(dict, _of(dict, document)["progress"])
        if not is_id(_of(str, document["id"])):
            raise ValueError("no id")
        for value, kind in ((document["name"], str), (document["state"], str)):
            _of(kind, value)
        for name in ("meta_iteration", "of"):
            _of(int, progress[name])
        return cls(document, etag)


class Page(NamedTuple):
    """Some of the rows of a list."""

    data: list[Json]
    next: str | int | None  # where the next page begins; None after the last one


class Cancelled(NamedTuple):
    """Ids of jobs that were cancelled together."""

    data: list[str]
    more: bool  # there are others left


def is_id(text: str) -> bool:
    """Whether it is a whole id of a job."""
    return _ID.fullmatch(text) is not None


@contextlib.contextmanager
def understood(answer: httpx.Response) -> Iterator[None]:
    """Within, an answer is read.

    Raises:
        ApiError: it cannot be, so that the server is none of ours, or of another version.
    """
    try:
        yield
    except (CoreError, httpx.TransportError, OSError, MemoryError):
        raise
    except Exception as error:  # what parsers raise of what nobody has foreseen is no list that could be complete
        raise stranger(answer.request, answer.status_code) from error


def document(answer: httpx.Response) -> Json:
    """A JSON object."""
    return _of(dict, answer.json())


def rows(answer: httpx.Response) -> list[Json]:
    """What a list holds."""
    return [_of(dict, row) for row in _of(list, document(answer)["data"])]


def page(answer: httpx.Response) -> Page:
    """What a page of a list holds, and where the next one begins."""
    after = document(answer)["next"]
    return Page(rows(answer), after if after is None else _of((str, int), after))


def figures(answer: httpx.Response) -> list[Json]:
    """Figures, by names of which names of files are made."""
    found = rows(answer)
    if not all(_FIGURE.fullmatch(one["name"]) and _of(str, one["title"]) for one in found):
        raise ValueError("no name of a figure")
    return found


def cancelled(answer: httpx.Response) -> Cancelled:
    """Ids of jobs."""
    found = document(answer)
    return Cancelled([_of(str, one) for one in _of(list, found["data"])], _of(bool, found["more"]))


def job(answer: httpx.Response) -> Seen:
    """A job, and its version."""
    return Seen.read(document(answer), answer.headers.get("ETag"))


def changed_job(answer: httpx.Response) -> Seen | None:
    """A job; None where it is still the version that was known."""
    return None if answer.status_code == httpx.codes.NOT_MODIFIED else job(answer)


def event(text: str) -> Json:
    """What has happened, with its number."""
    found = _of(dict, json.loads(text))
    _of(int, found["number"])
    return found


def content(answer: httpx.Response) -> bytes:
    """A file."""
    return answer.content


def nothing(answer: httpx.Response) -> None:
    """That it was done."""


def _of(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{type(value).__name__} instead of {kind}")
    return value
