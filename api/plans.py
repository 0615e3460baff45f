"""Plans of jobs, made in a child process: one at a time, for so long, with so much memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any

from api.errors import Busy, PlanFailed
from core.config import Settings
from core.errors import InvalidSpec, StorageUnavailable
from core.spec import JobSpec

_PROGRAM = "core.foretell"  # by name: it loads JAX, which the API does not
_SECRETS = ("RETROGRAD_DATABASE_URL", "RETROGRAD_BROKER_URL", "RETROGRAD_BOOTSTRAP_API_KEY")
_OF_DATA = ("data", "storage_url", "storage_cache", "storage_cache_bytes")
_GRACE_SECONDS = 5.0  # beyond the limit that the child sets itself


class Planner:
    """Makes one plan at a time."""

    def __init__(self, settings: Settings) -> None:
        self._seconds, self._bytes = settings.plan_seconds, settings.plan_memory_bytes
        self._environ = {name: value for name, value in os.environ.items() if name not in _SECRETS}
        self._environ["JAX_PLATFORMS"] = "cpu"  # a GPU here is its worker's
        for name in _OF_DATA:
            if (value := getattr(settings, name)) is not None:
                self._environ[f"RETROGRAD_{name.upper()}"] = str(value)
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def plan(self, spec: JobSpec) -> dict[str, Any]:
        """What `core.foretell` says of the job. Takes seconds; the caller should hold nothing meanwhile.

        Raises:
            Busy: another plan is being made.
            InvalidSpec: the job cannot be run.
            StorageUnavailable: its uploaded data cannot be read now.
            PlanFailed: it takes too long or too much memory even to look at, or is refused for another reason.
        """
        if not self._lock.acquire(blocking=False):
            raise Busy("another plan is being made, and they are made one at a time")
        try:
            return self._answer(spec)
        finally:
            self._lock.release()

    def close(self) -> None:
        """End the plan that is being made, if there is one."""
        if (child := self._child) is not None:
            child.kill()

    def _answer(self, spec: JobSpec) -> dict[str, Any]:
        limits = ("--seconds", str(self._seconds), "--bytes", str(self._bytes))
        with subprocess.Popen(
            [sys.executable, "-m", _PROGRAM, *limits],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self._environ,
        ) as self._child:  # fmt: skip
            try:
                output, complaint = self._child.communicate(
                    spec.model_dump_json().encode(), self._seconds + _GRACE_SECONDS
                )
            except subprocess.TimeoutExpired:
                self._child.kill()
                raise PlanFailed(self._too_slow()) from None
            finally:
                child, self._child = self._child, None
        if child.returncode == -signal.SIGALRM:
            raise PlanFailed(self._too_slow())
        if child.returncode < 0:
            name = signal.Signals(-child.returncode).name
            raise PlanFailed(f"it was ended by {name}; it may need more than the {self._bytes} bytes it may take")
        if child.returncode:
            raise RuntimeError(f"{_PROGRAM} failed: {complaint.decode(errors='replace')[-4000:]}")
        return _read(json.loads(output))

    def _too_slow(self) -> str:
        return (
            f"it took longer than {self._seconds:g} s; the job may be submitted all the same, or be planned with fewer "
            "training.num_steps or a smaller model"
        )


def _read(document: dict[str, Any]) -> dict[str, Any]:
    if (error := document.get("error")) is None:
        plan: dict[str, Any] = document["plan"]
        return plan
    if error["code"] == InvalidSpec.code:
        raise InvalidSpec(*((tuple(one["loc"]), one["msg"]) for one in error["details"]["errors"]))
    if error["code"] == StorageUnavailable.code:
        raise StorageUnavailable(error["message"])
    raise PlanFailed(error["message"])
