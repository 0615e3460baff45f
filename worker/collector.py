"""Deletes stored bytes that belong to no upload."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from itertools import islice

from sqlalchemy.orm import Session, sessionmaker

from core.config import Settings
from core.storage import open_storage
from core.store import blobs

COLLECT_SECONDS = 60.0
SWEEP_SECONDS = 6 * 3600.0
_ABANDONED_SECONDS = 86_400.0  # longer than any upload takes
_BATCH = 1000

log = logging.getLogger("worker.janitor")


class Collector:
    """One janitor's share of it. Any number may do it at once."""

    def __init__(self, sessions: sessionmaker[Session], settings: Settings) -> None:
        self._sessions, self._storage = sessions, open_storage(settings)
        self._next_sweep = 0.0

    def run(self, stop: threading.Event, survive: Callable[[Callable[[], object]], None]) -> None:
        """Work until `stop`. Storage far away is slow: nothing else should wait for it."""
        while not stop.is_set():
            if time.monotonic() >= self._next_sweep:
                self._next_sweep = time.monotonic() + SWEEP_SECONDS
                survive(self.sweep)
            survive(self.collect)
            stop.wait(COLLECT_SECONDS)

    def collect(self, unused_seconds: float = blobs.UNUSED_SECONDS) -> int:
        """Delete blobs that nobody has used for so long; returns how many."""
        if self._storage is None:
            return 0
        collected, more = 0, True
        while more:
            with self._sessions.begin() as session:  # one a transaction: its row is locked while its bytes go
                more = blobs.collect(session, self._storage.delete, unused_seconds)
            collected += more
        if collected:
            log.info("%d unused blobs deleted", collected)
        return collected

    def sweep(self) -> int:
        """Find stored bytes that no row knows, so that they are collected; returns how many."""
        if self._storage is None:
            return 0
        self._storage.clear_unfinished(_ABANDONED_SECONDS)
        adopted, found = 0, self._storage.found()
        while batch := list(islice(found, _BATCH)):
            with self._sessions.begin() as session:
                adopted += blobs.adopt(session, batch)
        if adopted:
            log.warning("%d blobs are stored that no row knew of", adopted)
        return adopted
