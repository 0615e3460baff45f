"""What routes ask for: settings, a transaction, the project that the request speaks for, and its quotas.

A route that asks for `ProjectDep` is open to keys with the scope that its method needs: `read` to look, `write` for
all else. One that asks for `AdminDep` needs `admin`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session

from api.errors import Forbidden, Unauthorized
from core.config import Settings
from core.quotas import Quotas
from core.store import keys, quotas
from core.store.keys import Caller, Scope

_SAFE = ("GET", "HEAD", "OPTIONS")
_bearer = HTTPBearer(auto_error=False, description="an API key, rg_…")


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def _session(request: Request) -> Iterator[Session]:
    with request.app.state.sessions.begin() as session:
        yield session


# "function": committed before the answer is sent, so that an answer never promises what was not kept
SessionDep = Annotated[Session, Depends(_session, scope="function")]
SettingsDep = Annotated[Settings, Depends(_settings)]


def _caller(
    request: Request,
    session: SessionDep,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Caller:
    """Who asks, once it is known and does not ask too often."""
    state, key = request.app.state, bearer.credentials if bearer else ""
    address = request.client.host if request.client else ""
    state.strangers.admit(address, key)
    caller = keys.caller(session, key)
    if caller is None:
        state.strangers.count(address)
        raise Unauthorized
    state.strangers.trust(key)
    state.last_used.note(caller.key_id)
    state.rates.count("reads" if request.method in _SAFE else "writes", str(caller.key_id))
    return caller


CallerDep = Annotated[Caller, Depends(_caller)]


def _project(request: Request, caller: CallerDep) -> UUID:
    return _with_scope(caller, Scope.READ if request.method in _SAFE else Scope.WRITE).project_id


def _admin(caller: CallerDep) -> UUID:
    return _with_scope(caller, Scope.ADMIN).project_id


def _with_scope(caller: Caller, scope: Scope) -> Caller:
    if not caller.may(scope):
        raise Forbidden(scope, caller.scopes)
    return caller


ProjectDep = Annotated[UUID, Depends(_project)]
AdminDep = Annotated[UUID, Depends(_admin)]


def _quotas(project: ProjectDep, session: SessionDep, settings: SettingsDep) -> Quotas:
    return quotas.of(session, project, settings.quotas)


QuotasDep = Annotated[Quotas, Depends(_quotas)]
