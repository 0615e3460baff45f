"""When a key was last used, kept beside the requests: none of them waits for it, or fails because of it."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from core.store import keys

log = logging.getLogger(__name__)


class LastUsed:
    """Writes with one thread, at most once a minute a key."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self._sessions = sessions
        self._noted: dict[UUID, float] = {}
        self._writer = ThreadPoolExecutor(1, "last-used")

    def note(self, key_id: UUID) -> None:
        """Have it known that the key is in use."""
        now = time.monotonic()
        if now - self._noted.get(key_id, -keys.TOUCH_SECONDS) >= keys.TOUCH_SECONDS:
            self._noted[key_id] = now  # two threads may come here at once: the second UPDATE finds nothing to do
            with suppress(RuntimeError):  # the service is ending
                self._writer.submit(self._write, key_id)

    def close(self) -> None:
        """Write what is still to be written."""
        self._writer.shutdown()

    def _write(self, key_id: UUID) -> None:
        try:
            with self._sessions.begin() as session:
                keys.touch(session, key_id)
        except SQLAlchemyError as error:
            log.warning("the last use of a key was not kept: %s", str(error).partition("\n")[0])
