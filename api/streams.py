"""Event streams that are open: what wakes them, how many there may be, and how each is told from where it was left.

All streams of a process share one connection that listens to Postgres. One that waits holds no other, and no thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from uuid import UUID

import anyio
import anyio.to_thread
import psycopg
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from api.errors import Busy
from api.schemas.records import EventRead
from core.config import Settings
from core.store import events, keys
from core.store.events import News

_PAGE = 100  # events read at a time
_READERS = 4  # streams that read at a time: they leave threads and connections to the other requests
_SEND_SECONDS = 30.0  # a client that takes nothing for this long is gone
_FAREWELL_SECONDS = 2.0  # for streams to end by themselves when the server shuts down

log = logging.getLogger(__name__)


class Streams:
    """All streams of this process."""

    def __init__(self, sessions: sessionmaker[Session], settings: Settings) -> None:
        self.settings = settings
        self._sessions = sessions
        self._open: dict[UUID, set[asyncio.Event]] = {}
        self._readers = anyio.CapacityLimiter(_READERS)
        self._listener: asyncio.Task[None] | None = None

    def count(self) -> int:
        """How many are open. Of any thread."""
        return sum(map(len, list(self._open.values())))

    @contextmanager
    def opened(self, job_id: UUID) -> Iterator[asyncio.Event]:
        """Count a stream for the time of the block; yields what is set when events of the job are committed.

        Raises:
            Busy: there are as many as there may be.
        """
        if self.count() >= self.settings.max_streams:
            raise Busy(f"{self.settings.max_streams} event streams are open, and there may be no more")
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen())
        wake = asyncio.Event()
        self._open.setdefault(job_id, set()).add(wake)
        try:
            yield wake
        finally:
            self._open[job_id].discard(wake)
            if not self._open[job_id]:
                del self._open[job_id]

    async def news(self, key_id: UUID, job_id: UUID, position: int) -> News | None:
        """What has happened to the job since; None once it is deleted, or the key that asks is revoked."""

        def read() -> News | None:
            with self._sessions.begin() as session:
                if not keys.in_force(session, key_id):
                    return None
                return events.news(session, job_id, after=position, limit=_PAGE)

        return await anyio.to_thread.run_sync(read, limiter=self._readers)

    async def close(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listener

    async def _listen(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(events.notices(self.settings.database_url)) as notices:
                    async for job_id in notices:
                        for wake in self._open.get(job_id, ()):
                            wake.set()
            except psycopg.Error as error:
                log.warning("events are not heard of, trying again: %s", str(error).partition("\n")[0])
            await asyncio.sleep(self.settings.stream_poll_seconds)


class EventStream(EventSourceResponse):
    """Events of one job, from the one after number `after` on, until its last or until the key is revoked."""

    def __init__(self, streams: Streams, key_id: UUID, job_id: UUID, after: int) -> None:
        self._streams, self._key_id, self._job_id, self._after = streams, key_id, job_id, after
        self._closing = anyio.Event()
        super().__init__(
            self._events(),
            ping=streams.settings.stream_heartbeat_seconds,
            ping_message_factory=lambda: ServerSentEvent(comment="nothing new"),
            send_timeout=_SEND_SECONDS,
            shutdown_event=self._closing,
            shutdown_grace_period=_FAREWELL_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the job has ended, the client has gone or the server shuts down."""
        with self._streams.opened(self._job_id) as self._wake, contextlib.suppress(SendTimeoutError):
            await super().__call__(scope, receive, send)

    async def _events(self) -> AsyncIterator[ServerSentEvent]:
        position = self._after
        while not self._closing.is_set():
            self._wake.clear()  # before reading, or what is committed meanwhile would be slept through
            try:
                found = await self._streams.news(self._key_id, self._job_id, position)
            except (OperationalError, InterfaceError, PoolTimeout) as outage:
                log.warning(
                    "stream of job %s: the database is away: %s", self._job_id, str(outage).partition("\n")[0]
                )
                await self._rest()
                continue
            if found is None:
                return
            for event in found.events:
                yield _as_sse(EventRead.model_validate(event))
                position = event.number
            if found.are_all(position):
                return
            if not found.events:
                await self._rest()

    async def _rest(self) -> None:
        """Until there is news or the server shuts down, and no longer than between two polls."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._wake, self._closing)]
        try:
            await asyncio.wait(
                waits, timeout=self._streams.settings.stream_poll_seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                wait.cancel()


def _as_sse(event: EventRead) -> ServerSentEvent:
    # in ASCII: clients that split lines as Unicode has them would cut the text of some messages in two
    data = json.dumps(event.model_dump(mode="json"), separators=(",", ":"))
    return ServerSentEvent(data, id=str(event.number), event=event.kind)
