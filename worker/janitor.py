"""Keeps jobs moving: `python -m worker.janitor`. Any number may run at once.

Publishes the outbox, as soon as Postgres tells of a new row; queues jobs again whose worker was lost; wakes
workers again for jobs that wait although the broker holds no message, and for those that a quota held back; forgets
idempotency keys of the day before, and deletes jobs that ended long ago. Beside that, in threads of their own, it sends
what webhooks are to be told, writes ends of jobs to the tracking server, and deletes stored bytes that nobody has any
more.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable

import psycopg
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from core.config import Settings, get_settings
from core.receivers import any_address, is_public
from core.store import idempotency, leases, outbox, quotas, retention, tracking
from core.store.session import open_store
from worker import health
from worker.collector import Collector
from worker.publisher import publishing
from worker.redaction import reason
from worker.sender import Sender
from worker.webhooks import Deliverer

_DATABASE_AWAY = (OperationalError, InterfaceError, PoolTimeout, psycopg.Error)
_BEATS_TO_COME_BACK = 2
_UNTRACKED_SECONDS = 3600.0  # for a server that is set a little later

log = logging.getLogger("worker.janitor")


class Janitor:
    """One process's rounds."""

    def __init__(self, sessions: sessionmaker[Session], settings: Settings) -> None:
        self._sessions, self._settings = sessions, settings
        self._broker_url = settings.broker_url.get_secret_value()
        self._failing: dict[
            str, str
        ] = {}  # reasons by duty, so that an outage is logged once and not every second
        self._reap_from = 0.0

    def let_workers_come_back(self) -> None:
        """Take no job from a worker for a while: those that work could not renew their leases either."""
        self._reap_from = time.monotonic() + _BEATS_TO_COME_BACK * self._settings.heartbeat_seconds

    def round(self) -> None:
        """Do every duty once. One that fails is logged and comes again; the others are done all the same."""
        for duty in (self.reap, self.wake, self.publish, self.republish, self.forget, self.retain):
            self.survive(duty)

    def reap(self) -> None:
        """Take jobs from workers that no longer renew their lease, though they could."""
        if time.monotonic() < self._reap_from:
            return
        with self._sessions.begin() as session:
            if lost := leases.reap(session, self._settings.max_attempts):
                log.warning("%d jobs lost their worker", lost)

    def wake(self) -> None:
        """Wake jobs that quotas held back, where there is room for them now."""
        with self._sessions() as session:
            holding = quotas.holding(session)
        for project, queue in holding:
            with self._sessions.begin() as session:
                if woken := quotas.wake(session, project, queue, self._settings.quotas):
                    log.info("project %s: %d jobs woken that its quotas held back", project, woken)

    def publish(self) -> None:
        """Send all that waits in the outbox."""
        with self._sessions() as session:
            if outbox.is_empty(session):
                return  # no need of a broker
        with publishing(self._broker_url) as publisher:
            sent = 1
            while sent:
                with self._sessions.begin() as session:
                    sent = outbox.publish(session, publisher.send)

    def republish(self) -> None:
        """Wake workers again for jobs queued so long that their message is gone."""
        seconds = self._settings.republish_seconds
        with self._sessions() as session:
            queues = outbox.overdue_queues(session, seconds)
        if not queues:
            return
        with publishing(self._broker_url) as publisher:
            drained = {queue: publisher.depth(queue) == 0 for queue in queues}
        for queue, is_drained in drained.items():
            with self._sessions.begin() as session:
                if lost := outbox.republish(session, queue, seconds, drained=is_drained):
                    log.warning("queue %s: %d wake-ups sent again", queue, lost)

    def forget(self) -> None:
        """Delete idempotency keys that have served their day, and notes of ends that nobody writes anywhere."""
        with self._sessions.begin() as session:
            idempotency.forget(session)
        if not self._settings.mlflow_tracking_uri:
            with self._sessions.begin() as session:
                tracking.forget(session, _UNTRACKED_SECONDS)

    def retain(self) -> None:
        """Delete some of what ended long ago, if the settings say when; the other duties do not wait for all of it."""
        if (days := self._settings.retention_days) is None:
            return
        with self._sessions.begin() as session:
            if deleted := retention.sweep(session, days, tracked=bool(self._settings.mlflow_tracking_uri)):
                log.info("%d jobs deleted that ended more than %g days ago", deleted, days)

    def survive(self, duty: Callable[[], None]) -> None:
        """Do a duty; log what it raises."""
        try:
            duty()
        except Exception as error:  # whatever the broker's or the database's client raises
            self.failed(duty.__name__, error)
        else:
            self.works(duty.__name__)

    def failed(self, what: str, error: Exception) -> None:
        """Log a failure, but not the same one twice in a row: an outage would fill the log."""
        if isinstance(error, _DATABASE_AWAY):
            self.let_workers_come_back()
        why = reason(error)
        if self._failing.get(what) != why:
            log.warning("%s failed, trying again: %s", what, why)
        self._failing[what] = why

    def works(self, what: str) -> None:
        """Log the end of a failure."""
        if self._failing.pop(what, None):
            log.info("%s works again", what)


def main() -> None:
    """Work until SIGTERM or Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = get_settings().complete()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    sessions = open_store(settings.database_url, application="retrograd janitor")
    janitor = Janitor(sessions, settings)
    janitor.let_workers_come_back()  # it may be the end of an outage that has this process start
    deliverer = Deliverer(sessions, Sender(any_address if settings.webhook_allow_private else is_public).send)
    arguments = (settings.janitor_seconds, janitor.survive)
    threading.Thread(target=deliverer.run, args=arguments, name="webhooks", daemon=True).start()
    if settings.mlflow_tracking_uri:
        _track(sessions, settings, stop, janitor)
    collector = Collector(sessions, settings)
    threading.Thread(target=collector.run, args=(stop, janitor.survive), name="blobs", daemon=True).start()
    log.info("started")
    while not stop.is_set():
        try:
            with outbox.listening(settings.database_url) as listener:
                janitor.works("listen")
                while not stop.is_set():
                    janitor.round()
                    health.beat("janitor")
                    listener.wait(settings.janitor_seconds)
        except psycopg.Error as error:
            janitor.failed("listen", error)
            stop.wait(settings.janitor_seconds)
    deliverer.stop()
    log.info("stopped")


def _track(sessions: sessionmaker[Session], settings: Settings, stop: threading.Event, janitor: Janitor) -> None:
    """Write ends of jobs to the tracking server until `stop`."""
    from worker.tracker import Tracker  # with figures: what only those need who want it
    from worker.tracking_server import TrackingServer

    server = TrackingServer(settings.mlflow_tracking_uri, settings.mlflow_experiment)
    tracker = Tracker(sessions, server, stop)
    arguments = (settings.janitor_seconds, janitor.survive)
    threading.Thread(target=tracker.run, args=arguments, name="tracking", daemon=True).start()


if __name__ == "__main__":
    main()
