"""What went wrong, told to people or, with --json, to programs; and how the command exits then."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import typer
from rich.text import Text

from core.errors import CoreError
from retrograd.cli.console import as_json as in_json
from retrograd.cli.console import complain, err
from retrograd.cli.exits import Exit, of_http
from retrograd.cli.mistakes import Refused
from retrograd.client import ApiError, InvalidKey, Job, ServerUnreachable

_LONGEST = 500  # characters of what an error says that was not written to be read
_REMEDIES = {
    "unauthorized": "set RETROGRAD_API_KEY to one of this server's, or go to the folder in which `retrograd up` runs",
    "unknown_job": "`retrograd ls` lists those there are",
    "unknown_dataset": "`retrograd datasets list` shows those there are",
    "unknown_program": "`retrograd programs list` shows those there are",
}


UNFORESEEN = "unforeseen"
"""The code of an error that nobody foresaw."""
TRACEBACK = "RETROGRAD_TRACEBACK"
"""The variable that has it raised."""


class NotFound(CoreError):  # noqa: N818 - named for what happened
    """What was abbreviated is not there, or not there alone."""

    code = "not_found"


class JobEnded(CoreError):  # noqa: N818
    """A job that ended without success."""

    def __init__(self, job: Job) -> None:
        error = job["error"] or {}
        self.code = error.get("code") or job.state  # type: ignore[misc]
        reason = error.get("message") or error.get("code")
        super().__init__(f"job {job.id} {job.state}" + (f": {reason}" if reason else ""))


@dataclass(frozen=True)
class Failure:
    """An error, as both kinds of readers are told of it."""

    status: Exit
    code: str
    message: str
    errors: list[dict[str, Any]] = field(default_factory=list)
    shown: Text | None = None  # for people, where that is more than the message

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Of what a command raises, on purpose or not."""
        match error:
            case Refused():
                shown = Text("\n").join([Text(error.headline), *(one.shown(err.width) for one in error.mistakes)])
                return cls(Exit.REFUSED, error.code, str(error), error.details()["errors"], shown)
            case ApiError():
                return cls(of_http(error.status), error.code, _in_commands(error), error.errors)
            case ServerUnreachable():
                return cls(Exit.UNREACHABLE, error.code, str(error))
            case InvalidKey():
                return cls(Exit.NOT_ALLOWED, error.code, str(error))
            case NotFound():
                return cls(Exit.NOT_FOUND, error.code, str(error))
            case typer.TyperException():
                return cls(Exit.REFUSED, "usage", error.format_message())
            case CoreError():
                return cls(Exit.FAILED, error.code, str(error))
            case OSError():
                named = f"{error.strerror}: {error.filename}" if error.filename else str(error)
                return cls(Exit.FAILED, "os_error", named or type(error).__name__)
        said = " ".join(str(error).split())[:_LONGEST]
        return cls(
            Exit.FAILED,
            UNFORESEEN,
            f"{type(error).__name__}{said and f': {said}'}; nobody foresaw this here: {TRACEBACK}=1 shows where it "
            "comes from, and a server of another version may be why",
        )

    def tell(self, *, as_json: bool) -> None:
        """One paragraph, or one JSON object, on standard error."""
        if as_json:
            told = {"code": self.code, "message": self.message, "errors": self.errors}
            sys.stderr.write(in_json({"error": told}, sys.stderr) + "\n")
        else:
            complain(self.message if self.shown is None else self.shown)


def _in_commands(error: ApiError) -> str:
    """The server's words, with a remedy that is a command where the server's is a request."""
    if error.code not in _REMEDIES:
        return str(error)
    return f"{str(error).partition(';')[0]}; {_REMEDIES[error.code]} ({error.code}, HTTP {error.status})"
