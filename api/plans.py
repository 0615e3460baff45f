"""Plans of jobs, made in a child process: one at a time, for so long, with so much memory."""

from __future__ import annotations

import json
from typing import Any

from api.children import Children, Killed, TookTooLong, trusted_environ
from api.errors import PlanFailed
from core.config import Settings
from core.errors import InvalidSpec, PluginFailed, StorageUnavailable
from core.spec import JobSpec

_PROGRAM = "core.foretell"  # by name: it loads JAX, which the API does not


class Planner:
    """Makes one plan at a time."""

    def __init__(self, settings: Settings) -> None:
        self._seconds, self._bytes = settings.plan_seconds, settings.plan_memory_bytes
        self._children = Children(1, trusted_environ(settings))

    def plan(self, spec: JobSpec) -> dict[str, Any]:
        """What `core.foretell` says of the job. Takes seconds; the caller should hold nothing meanwhile.

        Raises:
            Busy: another plan is being made.
            InvalidSpec: the job cannot be run.
            StorageUnavailable: its uploaded data cannot be read now.
            PlanFailed: it takes too long or too much memory even to look at, or is refused for another reason.
        """
        limits = ["--seconds", str(self._seconds), "--bytes", str(self._bytes)]
        asked = spec.model_dump_json().encode()
        try:
            output = self._children.answer([_PROGRAM, *limits], asked, self._seconds, doing="making a plan")
        except TookTooLong:
            raise PlanFailed(
                f"it took longer than {self._seconds:g} s, most of it to compile; ask again, as what was compiled "
                "is kept, or submit the job all the same"
            ) from None
        except Killed as error:
            raise PlanFailed(
                f"it was ended by {error}; it may need more than the {self._bytes} bytes it may take"
            ) from None
        return _read(json.loads(output))

    def close(self) -> None:
        """End the plan that is being made, if there is one."""
        self._children.close()


def _read(document: dict[str, Any]) -> dict[str, Any]:
    if (error := document.get("error")) is None:
        plan: dict[str, Any] = document["plan"]
        return plan
    if error["code"] == InvalidSpec.code:
        raise InvalidSpec(*((tuple(one["loc"]), one["msg"]) for one in error["details"]["errors"]))
    if error["code"] == StorageUnavailable.code:
        raise StorageUnavailable(error["message"])
    if error["code"] == PluginFailed.code:
        raise PluginFailed.told(error["message"])
    raise PlanFailed(error["message"])
