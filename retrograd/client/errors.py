"""What goes wrong between here and the server."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import httpx

from core.errors import CoreError
from retrograd.client.printable import printable

_ID = 36
_TUPLE = re.compile(r"\btuple\b")
_REMEDIES = {"unauthorized": "give one of this server's as Client(api_key=…) or RETROGRAD_API_KEY"}


class ApiError(CoreError):
    """The API said no. `code` and `status` are for programs; `errors` lists the fields of a bad spec.

    `status` is 0 where an answer could not even be unpacked. `retry_after` is in how many seconds the server wants to
    be asked again, where it said so.
    """

    code = "api_error"

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: list[dict[str, Any]] | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.status, self.code, self.errors = status, printable(code), errors or []  # type: ignore[misc]
        self.retry_after = retry_after
        if self.errors:  # one field a line; the detail is the same in one line
            fields = [f"\n  {'.'.join(map(str, one['loc'])) or 'job'}: {one['msg']}" for one in self.errors]
            detail = "the server refused the request" + "".join(fields)
        named = f"{code}, HTTP {status}" if status else code
        super().__init__(printable(f"{detail} ({named})"))


class ServerUnreachable(CoreError):  # noqa: N818 - named for what happened
    """No server is known, or nothing answers at its address."""

    code = "server_unreachable"


class IncompleteId(CoreError, ValueError):  # noqa: N818
    """What is given as the id of a job is none, or not all of it."""

    code = "incomplete_id"

    def __init__(self, given: str) -> None:
        super().__init__(
            f"{given!r} is no whole id of a job, which has {_ID} characters; `client.jobs.list()` has jobs with theirs"
        )


class InvalidKey(CoreError):  # noqa: N818
    """What is given as an API key can be none. Its text is not repeated."""

    code = "invalid_key"


def refusal(answer: httpx.Response) -> ApiError | None:
    """The error that an answer tells of; None where it is none. Its body has been read."""
    if answer.is_success or answer.status_code == httpx.codes.NOT_MODIFIED:
        return None
    status, seconds = answer.status_code, _retry_after(answer)
    with contextlib.suppress(ValueError, KeyError, AttributeError, TypeError, RecursionError):
        problem = answer.json()
        detail = str(problem.get("detail") or problem["title"])
        errors = [
            {**one, "loc": list(one["loc"]), "msg": _plain(str(one["msg"]))} for one in problem.get("errors") or ()
        ]
        return ApiError(status, code := str(problem["code"]), _helpful(code, _plain(detail)), errors, seconds)
    detail = f"{answer.request.url} answered {answer.reason_phrase or 'without a reason'}"
    return ApiError(status, "unexpected_answer", detail, retry_after=seconds)


def unknown_preset(error: ApiError, name: str, known: Sequence[str]) -> ApiError:
    """The same, with the name that may be meant."""
    near = get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    detail = f"no preset {name!r}; {meant}`client.presets.names()` has all"
    return ApiError(error.status, error.code, detail, retry_after=error.retry_after)


def _helpful(code: str, detail: str) -> str:
    """With a remedy that is this client's, where the server's is of HTTP."""
    remedy = _REMEDIES.get(code)
    return f"{detail.partition(';')[0]}; {remedy}" if remedy else detail


def _plain(text: str) -> str:
    """Without words of the library that the server checks by."""
    return _TUPLE.sub("list", text.replace("Value error, ", ""))


def unreachable(error: httpx.TransportError) -> ServerUnreachable:
    """A request that was not answered, however often it was sent."""
    return ServerUnreachable(
        f"{_server(error.request)} does not answer ({error or type(error).__name__}); is the server "
        "running? `retrograd up` starts one here, RETROGRAD_URL names another"
    )


def stranger(request: httpx.Request, status: int) -> ApiError:
    """An answer that makes no sense here."""
    return ApiError(
        status,
        "not_retrograd",
        f"{_server(request)} does not answer like a Retrograd server of this version; check the address, and that the "
        "server and this client are of one version",
    )


def _server(request: httpx.Request) -> str:
    url = request.url
    return f"{url.scheme}://{url.netloc.decode()}"


def _retry_after(answer: httpx.Response) -> float | None:
    """In seconds, as Retrograd has it; a date, which others may send, is not waited for."""
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else None
