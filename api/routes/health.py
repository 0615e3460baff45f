"""Liveness and readiness."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from fastapi import APIRouter, Request, Response
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker
from starlette.datastructures import State

from api.deps import SettingsDep
from api.schemas.service import Liveness, Readiness
from core.config import Settings
from core.store import migrate

router = APIRouter(tags=["health"])

_BROKER_SECONDS = 0.5
_KNOWN_SECONDS = 1.0
_looking = threading.Lock()


class _Seen(NamedTuple):
    at: float  # seconds, monotonic
    found: tuple[str, str, str]  # of database, migrations, broker


@router.get("/healthz", summary="Liveness")
def healthz() -> Liveness:
    """The process answers."""
    return Liveness(status="ok")


@router.get("/readyz", summary="Readiness", responses={503: {"model": Readiness}})
def readyz(request: Request, response: Response, settings: SettingsDep) -> Readiness:
    """Whether jobs can be accepted. They can without a broker: they then wait in the outbox."""
    database, migrations, broker = _found(request.app.state, settings)
    if (database, migrations) != ("ok", "ok"):
        response.status_code = 503
        status = "unavailable"
    else:
        status = "ok" if broker == "ok" else "degraded"
    return Readiness.model_validate(
        {"status": status, "checks": {"database": database, "migrations": migrations, "broker": broker}}
    )


def _found(state: State, settings: Settings) -> tuple[str, str, str]:
    """As of a second ago, or as last seen while another request looks: what needs no key must cost little."""
    seen: _Seen | None = getattr(state, "readiness", None)
    if seen is not None and time.monotonic() - seen.at < _KNOWN_SECONDS:
        return seen.found
    if not _looking.acquire(blocking=seen is None) and seen is not None:
        return seen.found
    try:
        found = (*_database(state.sessions), _broker(settings.broker_url.get_secret_value()))
        state.readiness = _Seen(time.monotonic(), found)
        return found
    finally:
        _looking.release()


def _database(sessions: sessionmaker[Session]) -> tuple[str, str]:
    try:
        with sessions() as session:
            current = migrate.current(session)
    except SQLAlchemyError:
        return "does not answer", "unknown"
    if current == migrate.head():
        return "ok", "ok"
    return "ok", f"at {current}, not {migrate.head()}; run python -m core.store.migrate"


def _broker(url: str) -> str:
    """Never says more than that: the URL holds a password."""
    if not url:
        return "not configured; set RETROGRAD_BROKER_URL"
    try:
        with Redis.from_url(
            url,
            socket_timeout=_BROKER_SECONDS,
            socket_connect_timeout=_BROKER_SECONDS,
            retry=Retry(NoBackoff(), 0),
        ) as broker:
            broker.ping()
    except (RedisError, OSError, ValueError):
        return "does not answer"
    return "ok"
