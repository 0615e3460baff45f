"""What routes ask for: settings, a transaction, the project that the request speaks for, and its quotas.

A route that asks for `ProjectDep` is open to keys with the scope that its method needs: `read` to look, `write` for
all else. One that asks for `AdminDep` needs `admin`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import event
from sqlalchemy.orm import Session

from api.errors import Busy, Forbidden, Unauthorized
from core.config import Settings
from core.quotas import Quotas
from core.store import keys, quotas
from core.store.keys import Caller, Scope

TURNS = 32
"""Requests with a transaction at the same time; others wait for their turn, holding nothing."""

PAGE_HEADER = "X-Retrograd-Page"

_TURN_SECONDS = 10.0
_SAFE = ("GET", "HEAD", "OPTIONS")
_bearer = HTTPBearer(auto_error=False, description="an API key, rg_…")


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _session(request: Request) -> AsyncIterator[Session]:
    async with _transaction(request) as session:
        yield session


@asynccontextmanager
async def _transaction(request: Request) -> AsyncIterator[Session]:
    state = request.app.state
    async with (
        _turn(state.turns) as give_back,
        contextmanager_in_threadpool(state.sessions.begin()) as session,
    ):
        # a route that commits early, as it goes on for long without the database, leaves its turn to others
        # (the end of a savepoint is a commit to SQLAlchemy as well)
        event.listen(session, "after_commit", lambda ended: ended.in_nested_transaction() or give_back())
        yield session


@asynccontextmanager
async def _turn(turns: asyncio.Semaphore) -> AsyncIterator[Callable[[], None]]:
    """Let fewer requests into the database than there are connections and threads.

    Else some would hold a thread while they wait for a connection, or for a row, that others hold who wait for a
    thread. Yields what gives the turn back before the request ends, from whatever thread.
    """
    try:
        async with asyncio.timeout(_TURN_SECONDS):
            await turns.acquire()
    except TimeoutError as error:
        raise Busy("too many requests at once") from error
    loop, held = asyncio.get_running_loop(), True

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


# "function": committed before the answer is sent, so that an answer never promises what was not kept
SessionDep = Annotated[Session, Depends(_session, scope="function")]
SettingsDep = Annotated[Settings, Depends(_settings)]


BearerDep = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


def _caller(request: Request, session: SessionDep, bearer: BearerDep) -> Caller:
    """Who asks: by a key in the header, else by the one that the dashboard has the browser keep.

    A browser sends that of its own accord. So what changes something must also have a header that only a page of ours
    can set: no other site makes requests in its reader's name.
    """
    if bearer is None and (request.method in _SAFE or PAGE_HEADER in request.headers):
        return caller_of(request, session, cookie_of(request))
    return caller_of(request, session, bearer.credentials if bearer else "")


def cookie_name(request: Request) -> str:
    """Of the dashboard's cookie, which holds an API key, and which no script can read.

    With the port in it: cookies are of a host, where another server may have pages of its own.
    """
    port = request.url.port
    return "retrograd_key" if port is None else f"retrograd_key_{port}"


def cookie_of(request: Request) -> str:
    """The key that the browser keeps for this server."""
    return request.cookies.get(cookie_name(request), "")


def caller_of(request: Request, session: Session, key: str) -> Caller:
    """Whose key it is, once that is known and does not ask too often.

    Raises:
        Unauthorized: nobody's.
        RateLimited: it, or its address, asks too often.
    """
    state = request.app.state
    address = request.client.host if request.client else ""
    state.strangers.admit(address, key)
    caller = keys.caller(session, key)
    if caller is None:
        state.strangers.count(address, key)
        raise Unauthorized
    state.strangers.trust(key)
    state.last_used.note(caller.key_id)
    state.rates.count("reads" if request.method in _SAFE else "writes", str(caller.key_id))
    return caller


CallerDep = Annotated[Caller, Depends(_caller)]


async def _project(request: Request, caller: CallerDep) -> UUID:
    return _with_scope(caller, Scope.READ if request.method in _SAFE else Scope.WRITE).project_id


async def _admin(caller: CallerDep) -> UUID:
    return _with_scope(caller, Scope.ADMIN).project_id


def _with_scope(caller: Caller, scope: Scope) -> Caller:
    if not caller.may(scope):
        raise Forbidden(scope, caller.scopes)
    return caller


async def _sender(request: Request, bearer: BearerDep) -> UUID:
    async with _transaction(request) as session:
        caller = await run_in_threadpool(_caller, request, session, bearer)
    return _with_scope(caller, Scope.WRITE).project_id


ProjectDep = Annotated[UUID, Depends(_project)]
SenderDep = Annotated[UUID, Depends(_sender)]
"""As `ProjectDep`, for a long body: neither a turn nor a transaction waits for whoever sends it."""

AdminDep = Annotated[UUID, Depends(_admin)]


def _quotas(project: ProjectDep, session: SessionDep, settings: SettingsDep) -> Quotas:
    return quotas.of(session, project, settings.quotas)


QuotasDep = Annotated[Quotas, Depends(_quotas)]
