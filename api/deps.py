"""What routes ask for: settings, a transaction, and the project that the request speaks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import event
from sqlalchemy.orm import Session

from api.errors import Unauthorized
from core.config import Settings
from core.store import keys

# A request keeps its connection while it changes threads. Were there more of them than connections or threads, some
# would hold all threads and wait for a connection, and the others the connections and wait for a thread.
TURNS = 32

_bearer = HTTPBearer(auto_error=False, description="an API key, rg_…")


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _turn(request: Request) -> AsyncIterator[Callable[[], None]]:
    """Wait for a turn; yields what gives it back before the request ends, from whatever thread."""
    turns, loop, held = request.app.state.turns, asyncio.get_running_loop(), True
    await turns.acquire()

    def give_back() -> None:
        nonlocal held
        if held:
            held = False
            turns.release()

    def from_any_thread() -> None:
        loop.call_soon_threadsafe(give_back)

    try:
        yield from_any_thread
    finally:
        give_back()


def _session(
    request: Request, give_back: Annotated[Callable[[], None], Depends(_turn, scope="function")]
) -> Iterator[Session]:
    with request.app.state.sessions.begin() as session:
        # a route that commits early, as it goes on for long without the database, leaves its turn to others
        event.listen(session, "after_commit", lambda _: give_back())
        yield session


# "function": committed before the answer is sent, so that an answer never promises what was not kept
SessionDep = Annotated[Session, Depends(_session, scope="function")]
SettingsDep = Annotated[Settings, Depends(_settings)]


def _project(
    session: SessionDep, bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> UUID:
    project = keys.project_of(session, bearer.credentials) if bearer else None
    if project is None:
        raise Unauthorized
    return project


ProjectDep = Annotated[UUID, Depends(_project)]
