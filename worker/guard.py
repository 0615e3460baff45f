"""What a job may take of its worker: memory and time. A thread watches, as a computation cannot be interrupted."""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Iterator

from core.config import Settings
from core.errors import CoreError, OutOfMemory, OutOfTime, Stalled
from worker import memory

_LOOK_SECONDS = 0.1
_SHARE_OF_FREE = 0.9
_GRACE_SECONDS = 30.0  # to come to a check, where the job ends in good order: a compilation may come between
_DEAF_SECONDS = 120.0
_MAX_QUOTED = 200


class Guard:
    """Watches over one job from its start on.

    Args:
        settings: what it may take.
        seconds_before: that earlier attempts have taken.
        overstepped: called once, in the watching thread, when the job has taken too much or stands still; it must end
            the process.
    """

    def __init__(
        self, settings: Settings, seconds_before: float, overstepped: Callable[[CoreError], None]
    ) -> None:
        self._settings, self._seconds_before, self._overstepped = settings, seconds_before, overstepped
        self._memory_before = memory.held()
        self._most_memory = settings.job_memory_bytes or int(memory.free() * _SHARE_OF_FREE)
        self._began = self._alive_at = time.monotonic()
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look_on, name="guard", daemon=True)
        self._watch.start()

    def alive(self) -> None:
        """Say that the job does not stand still."""
        self._alive_at = time.monotonic()

    def check(self) -> None:
        """The same, between two pieces of the computation.

        Raises:
            OutOfTime: there may be no other.
        """
        self.alive()
        if (most := self._settings.job_seconds) is not None and self._seconds() > most:
            raise OutOfTime(most)

    def stop(self) -> None:
        """Watch no longer."""
        self._over.set()
        self._watch.join()

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._began

    def _look_on(self) -> None:
        deaf_at = 0.0
        try:
            while not self._over.wait(_LOOK_SECONDS):
                if (now := time.monotonic()) > deaf_at:
                    # a computation that never lets another thread run stops this one and the heartbeat too: then the
                    # lease runs out, and a thread that is not Python's ends the process, which is of no use any more
                    faulthandler.dump_traceback_later(
                        max(_DEAF_SECONDS, self._settings.lease_seconds), exit=True, file=sys.__stderr__ or 2
                    )
                    deaf_at = now + _DEAF_SECONDS / 10
                for error in self._overstepping():
                    self._overstepped(error)
                    return
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _overstepping(self) -> Iterator[CoreError]:
        taken = memory.held() - self._memory_before
        if taken > self._most_memory:
            yield OutOfMemory(
                f"the job took {taken} bytes of its worker's memory, of the {self._most_memory} that it may",
                taken=taken,
                limit=self._most_memory,
            )
        most = self._settings.job_seconds
        if most is not None and self._seconds() > most + _GRACE_SECONDS:
            yield OutOfTime(most)
        still = self._settings.stalled_seconds
        if still and time.monotonic() - self._alive_at > still:
            yield Stalled(still)


def explained(error: BaseException) -> BaseException:
    """The error itself, or what it means: XLA and NumPy have words of their own for a want of memory."""
    text = str(error)
    if isinstance(error, MemoryError) or (
        type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in text
    ):
        found = (text.splitlines() or [type(error).__name__])[0][:_MAX_QUOTED]
        return OutOfMemory(f"the device or its host has no memory left ({found})")
    return error
