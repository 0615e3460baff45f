"""Writes ends of jobs to the tracking server: a loop of its own beside the janitor's, as servers may take their time.

One after the other, and never given up. While the server is away nothing is asked of it but whether it is back.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

from sqlalchemy.orm import Session, sessionmaker

from core.store import tracking
from core.store.tracking import Due
from worker import tracked_run
from worker.redaction import reason
from worker.tracking_server import TrackingServer

TAKEN_SECONDS = 600.0  # renewed between requests: more than any of them takes, the client's own retries included

_FIRST_SECONDS, _GROWTH, _MOST_SECONDS = 10.0, 3.0, 3600.0
_JITTER = 0.2
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_LONGEST_ERROR = 500

log = logging.getLogger(__name__)


class Superseded(Exception):  # noqa: N818 - named for what happened
    """Another attempt has begun since, or the job was deleted."""


def wait_after(attempt: int, draw: float) -> float:
    """Seconds until the next attempt after `attempt` of them failed: 10 s, then three times as long, an hour at most.

    Args:
        attempt: 1 is the first.
        draw: uniform in [0, 1]: how much earlier or later, up to a fifth.
    """
    return min(_FIRST_SECONDS * _GROWTH ** min(attempt - 1, 20), _MOST_SECONDS) * (1 + _JITTER * (2 * draw - 1))


class Tracker:
    """One process's writing. Any number may be at work at once."""

    def __init__(self, sessions: sessionmaker[Session], server: TrackingServer, stop: threading.Event) -> None:
        self._sessions, self._server, self._stop = sessions, server, stop
        self._pause = 0.0  # seconds, while it fails

    def run(self, seconds: float, survive: Callable[[Callable[[], None]], None]) -> None:
        """Write until it is to stop; looks every `seconds`, and less often while it fails.

        Args:
            survive: calls what it is given, and logs what that raises.
        """
        while not self._stop.is_set():
            survive(self.track)
            self._stop.wait(max(seconds, self._pause))

    def track(self) -> None:
        """Write all that is due, up to the first failure, which is raised."""
        while not self._stop.is_set():
            with self._sessions.begin() as session:
                due = tracking.claim(session, TAKEN_SECONDS)
            if due is None:
                return
            try:
                self._write(due)
            except Superseded:
                log.info("job %s: its end %d is written by another, or gone", due.job_id, due.event)
            except Exception as error:
                self._pause = min(max(2 * self._pause, _SHORTEST_PAUSE), _LONGEST_PAUSE)
                self._failed(due, error)
                raise
            self._pause = 0.0

    def _write(self, due: Due) -> None:
        with self._sessions() as session:
            run = tracked_run.read(session, due)
        if run is None:
            raise Superseded

        def hold() -> None:
            with self._sessions.begin() as session:
                if not tracking.hold(session, due, TAKEN_SECONDS):
                    raise Superseded

        run_id = self._server.write(run, hold)
        with self._sessions.begin() as session:
            tracking.written(session, due, run_id)
        log.info("job %s: its end is the run %s, by attempt %d", due.job_id, run_id, due.attempt)

    def _failed(self, due: Due, error: Exception) -> None:
        why = reason(error)[:_LONGEST_ERROR]
        wait = wait_after(due.attempt, random.random())  # noqa: S311 - no secret
        with self._sessions.begin() as session:
            tracking.failed(session, due, why, wait)
