"""What routes ask for: settings, a transaction, and the project that the request speaks for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
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


async def _turn(request: Request) -> AsyncIterator[None]:
    async with request.app.state.turns:
        yield


def _session(request: Request, turn: Annotated[None, Depends(_turn, scope="function")]) -> Iterator[Session]:
    with request.app.state.sessions.begin() as session:
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
