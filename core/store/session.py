"""Connections to Postgres."""

from __future__ import annotations

import json
from functools import partial

from sqlalchemy import create_engine, make_url
from sqlalchemy.orm import Session, sessionmaker

# A server that vanished must not hold a request or a heartbeat for ever, nor an abandoned one its locks.
_OPTIONS = " ".join(
    f"-c {name}={value}"
    for name, value in {
        "timezone": "UTC",
        "statement_timeout": "60s",
        "lock_timeout": "10s",
        "idle_in_transaction_session_timeout": "60s",
    }.items()
)
_CONNECT = {"connect_timeout": 5, "options": _OPTIONS, "tcp_user_timeout": 15_000}


def open_store(url: str, *, application: str = "retrograd") -> sessionmaker[Session]:
    """Sessions on the database at `url`; nothing connects before the first is used.

    Use as `with sessions.begin() as session:`, one transaction each.
    """
    if not url:
        raise ValueError("no database; set RETROGRAD_DATABASE_URL to postgresql+psycopg://user:password@host/name")
    engine = create_engine(
        url,
        pool_pre_ping=True,  # a restarted server costs a reconnect, not an error
        # More than the API lets requests use at once: streams and health checks need some too. Made when needed and
        # kept: making one costs more than a request.
        pool_size=40,
        max_overflow=0,
        pool_timeout=10,
        connect_args={**_CONNECT, "application_name": application},
        json_serializer=partial(json.dumps, allow_nan=False),
    )
    return sessionmaker(engine, expire_on_commit=False)


def conninfo(url: str) -> str:
    """The same database as psycopg itself names it, for connections that only listen."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def close_store(sessions: sessionmaker[Session]) -> None:
    """Close every idle connection."""
    sessions.kw["bind"].dispose()
