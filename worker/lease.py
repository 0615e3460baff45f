"""Holding a job: a heartbeat in the background, and an end for every way in which work can stop."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import UUID

from psycopg.errors import DiskFull
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from core.config import Settings
from core.errors import CoreError, InternalError, Stalled, StorageUnavailable, UnknownDataset
from core.store import leases
from core.store.errors import Fenced
from core.store.leases import Lease, Wish
from worker import postmortem
from worker.guard import Guard, explained

_P = ParamSpec("_P")
_T = TypeVar("_T")
_RETRY_SECONDS = 1.0
_LAST_WORDS_SECONDS = 5.0
_MAX_MESSAGE = 300

log = logging.getLogger(__name__)


class Cancelled(Exception):  # noqa: N818 - named for what happened
    """The job's owner wants it ended."""


class Paused(Exception):  # noqa: N818
    """The job's owner wants it put by."""


class ShuttingDown(Exception):  # noqa: N818
    """The worker is to end; its job goes back to the queue."""


FORESEEN = (CoreError, Cancelled, Paused, ShuttingDown, OperationalError, InterfaceError)
"""Errors that say nothing of the process in which they are raised."""

_OF_THIS_WORKER = (StorageUnavailable, UnknownDataset)  # another may have what this one lacks


class HeldLease:
    """A lease that is renewed until `release`."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        lease: Lease,
        settings: Settings,
        stopping: threading.Event,
    ) -> None:
        self._sessions, self._lease, self._settings, self._stopping = sessions, lease, settings, stopping
        self._fenced, self._wish = False, Wish.GO_ON
        self._renewed_at = time.monotonic()
        self._released = threading.Event()
        self._guard = Guard(settings, lease.seconds_before, self._give_up)
        self._heartbeat = threading.Thread(target=self._beat, name=f"heartbeat {lease.job_id}", daemon=True)
        try:
            self._heartbeat.start()
        except RuntimeError:  # no more threads: nobody would renew the lease
            self._guard.stop()
            raise

    def check(self) -> None:
        """Return while work may go on. Cheap: the numerics call it between jitted segments.

        Raises:
            Fenced: another worker has the job.
            Cancelled: its owner wants it ended.
            Paused: its owner wants it put by.
            ShuttingDown: this worker is to end.
            OutOfTime: the job has taken longer than it may.
        """
        if self._fenced:
            raise Fenced(self._lease.job_id, self._lease.epoch)
        self.heed(self._wish)
        if self._stopping.is_set():
            raise ShuttingDown
        self._guard.check()

    def wait(self, seconds: float) -> None:
        """Let time pass, for something that is away. Raises as `check` does."""
        self._stopping.wait(seconds)
        self.check()

    @property
    def job_id(self) -> UUID:
        """Of the job that is held."""
        return self._lease.job_id

    @staticmethod
    def heed(wish: Wish) -> None:
        """Return if the job may go on.

        Raises:
            Cancelled: its owner wants it ended.
            Paused: its owner wants it put by.
        """
        if wish is Wish.CANCEL:
            raise Cancelled
        if wish is Wish.PAUSE:
            raise Paused

    def run(
        self, operation: Callable[Concatenate[Session, Lease, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Carry out a store operation in its own transaction, across a short outage of the database.

        A database whose disk is full may still renew leases. As long as it does it is waited for, as another attempt
        would only come to the same point. Operations may run twice when a commit's answer is lost; those of `leases`
        bear that.

        Raises:
            Fenced: another worker has the job.
        """
        deadline = time.monotonic() + self._settings.lease_seconds
        while True:
            try:
                with self._sessions.begin() as session:
                    return operation(session, self._lease, *args, **kwargs)
            except (OperationalError, InterfaceError) as error:
                if isinstance(error.orig, DiskFull) and self._wish is Wish.GO_ON:
                    self._guard.alive()
                    deadline = max(deadline, self._renewed_at + self._settings.lease_seconds)
                if time.monotonic() > deadline or self._stopping.is_set():
                    raise
                log.warning(
                    "job %s: the database is away, trying again: %s", self._lease.job_id, _first_line(error)
                )
                self._stopping.wait(_RETRY_SECONDS)

    def lose(self, why: CoreError) -> None:
        """Have another worker try, a while later; fail the job if that was its last attempt."""
        self.run(leases.lose, self._settings.max_attempts, why, self._settings.retry_seconds)

    def release(self) -> None:
        """Stop renewing."""
        self._released.set()
        self._guard.stop()
        self._heartbeat.join()

    def _give_up(self, error: CoreError) -> None:
        """Keep how the job's attempt ended and end this process: nothing else ends a computation.

        Another process takes its place. The job is failed; one that stalled is queued again, as its worker may be why.
        """
        log.error("job %s: this process ends: %s", self._lease.job_id, error)
        last = threading.Timer(_LAST_WORDS_SECONDS, end_process)  # memory does not wait for a slow database
        last.daemon = True
        last.start()
        try:
            with self._sessions.begin() as session:
                if isinstance(error, Stalled):
                    leases.lose(session, self._lease, self._settings.max_attempts, error)
                else:
                    leases.fail(session, self._lease, error.code, str(error), error.details())
        except (Fenced, SQLAlchemyError) as reason:
            log.warning("job %s: that could not be kept: %s", self._lease.job_id, _first_line(reason))
        if self._released.is_set():  # it came to its end by itself meanwhile
            last.cancel()
        else:
            end_process()

    def _beat(self) -> None:
        interval = self._settings.heartbeat_seconds
        while not self._released.wait(interval):
            try:
                with self._sessions.begin() as session:
                    self._wish = leases.renew(session, self._lease, self._settings.lease_seconds)
                self._renewed_at = time.monotonic()
                interval = self._settings.heartbeat_seconds
            except Fenced:
                self._fenced = True
                return
            except SQLAlchemyError as error:
                log.warning("job %s: lease not renewed: %s", self._lease.job_id, _first_line(error))
                interval = min(_RETRY_SECONDS, self._settings.heartbeat_seconds)


@contextmanager
def leased(
    sessions: sessionmaker[Session], job_id: UUID, settings: Settings, stopping: threading.Event
) -> Iterator[HeldLease | None]:
    """Hold a job for the time of the block, which must end it; None when there is nothing to hold.

    What the block raises decides how the job goes on: cancelled, paused, back in the queue, or failed with the error.
    An error that nobody foresaw is raised again once the job is back in the queue: this process may be sick, from a
    device that is lost for one, and would spoil job after job.
    """
    with sessions.begin() as session:
        lease = leases.claim(session, job_id, settings.lease_seconds, settings.quotas)
    if lease is None:
        yield None
        return
    log.info("job %s: attempt %d", job_id, lease.attempt)
    postmortem.note(lease)
    held = HeldLease(sessions, lease, settings, stopping)
    try:
        yield held
        log.info("job %s: succeeded", job_id)
    except BaseException as error:
        _end(held, job_id, error)
        if not isinstance(explained(error), FORESEEN):  # the process itself is to end
            raise
    finally:
        held.release()
        postmortem.erase()


def _end(held: HeldLease, job_id: UUID, error: BaseException) -> None:
    try:
        _write_end(held, job_id, error)
    except Fenced:
        log.warning("job %s: another worker has it", job_id)
    except SQLAlchemyError as outage:  # the lease runs out, and the janitor queues the job again
        log.error("job %s: its end could not be kept: %s", job_id, _first_line(outage))


def _write_end(held: HeldLease, job_id: UUID, error: BaseException) -> None:
    match explained(error):
        case Fenced() | OperationalError() | InterfaceError():
            raise error
        case Cancelled():
            log.info("job %s: cancelled", job_id)
            held.run(leases.cancelled)
        case Paused() | ShuttingDown() | KeyboardInterrupt() | SystemExit():
            log.info("job %s: given back", job_id)
            held.run(leases.give_back)
        case CoreError() as known if isinstance(known, _OF_THIS_WORKER):
            log.warning("job %s: another worker may try: %s", job_id, known)
            held.lose(known)
        case CoreError() as known:
            log.info("job %s: failed: %s", job_id, known)
            held.run(leases.fail, known.code, str(known), known.details())
        case _:
            log.error("job %s: failed", job_id, exc_info=error)
            held.lose(InternalError(f"{type(error).__name__}: {_first_line(error)}"))


def end_process() -> None:
    """At once; of one thread alone, `sys.exit` would be the end."""
    os._exit(os.EX_SOFTWARE)


def _first_line(error: BaseException) -> str:
    text: Any = str(error).strip().splitlines()
    return text[0][:_MAX_MESSAGE] if text else type(error).__name__
