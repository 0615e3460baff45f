"""Programs that users send, looked at in child processes: two at a time, for so long, with so much memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from api.children import Children, Killed, TookTooLong, bare_environ
from core.config import Settings
from core.errors import InvalidProgram

AT_ONCE = 2
_CHECK = "core.programs.check"  # by name: it loads JAX, which the API does not
_LATER_SECONDS = 10.0  # than the limits of its own, at which it says what was too slow


class Checker:
    """Says whether programs may be run, and what they are."""

    def __init__(self, settings: Settings) -> None:
        self._seconds, self._bytes = settings.check_seconds, settings.check_memory_bytes
        self._children = Children(AT_ONCE, bare_environ())

    def check(self, path: Path) -> dict[str, Any]:
        """What `core.programs.check` found in the file. Takes seconds; hold nothing meanwhile.

        Raises:
            Busy: as many are being checked as may be.
            InvalidProgram: it may not be run, cannot be, or could not be looked at with what that may take.
        """
        asked = {"path": str(path), "seconds": self._seconds, "memory_bytes": self._bytes}
        try:
            output = self._children.answer(
                [_CHECK], json.dumps(asked).encode(), self._seconds + _LATER_SECONDS, doing="checking a program"
            )
        except TookTooLong:
            raise InvalidProgram(
                f"file: compiling it and running a few of its steps took longer than {self._seconds:g} s; make the "
                "model or its loops smaller (RETROGRAD_CHECK_SECONDS bounds this)"
            ) from None
        except Killed as error:
            raise InvalidProgram(
                f"file: looking at it was ended by {error}; it may need more than the {self._bytes} bytes it may take "
                "(RETROGRAD_CHECK_MEMORY_BYTES bounds this): make the model smaller"
            ) from None
        document = json.loads(output)
        if not document["ok"]:
            raise InvalidProgram(document["error"]["message"])
        summary: dict[str, Any] = document["summary"]
        return summary

    def close(self) -> None:
        """End the checks that are being made."""
        self._children.close()
