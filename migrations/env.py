"""Runs migrations on the database of `core.config`, or on the one given in the configuration's attributes."""

from __future__ import annotations

import time

from alembic import context
from sqlalchemy import Connection, create_engine, pool, text

from core.config import get_settings
from core.store.models import Base

_LOCK = 0x7265_7472  # advisory: several processes may start, and migrate, at once

_PAUSE_SECONDS = 0.2


def migrate() -> None:
    url = context.config.attributes.get("url") or get_settings().database_url
    if not url:
        raise SystemExit("no database; set RETROGRAD_DATABASE_URL to postgresql+psycopg://user:password@host/name")
    if context.is_offline_mode():
        context.configure(url=url, target_metadata=Base.metadata, literal_binds=True)
        with context.begin_transaction():
            context.run_migrations()
        return
    engine = create_engine(url, poolclass=pool.NullPool, connect_args={"connect_timeout": 5})
    with engine.connect() as connection:
        _wait_for_turn(connection)
        context.configure(connection=connection, target_metadata=Base.metadata)
        with context.begin_transaction():
            context.run_migrations()


def _wait_for_turn(connection: Connection) -> None:
    """Have the lock for as long as the connection is open.

    Asked for again and again: an index that is built concurrently waits for whoever waits within a transaction.
    """
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _LOCK}):
        connection.rollback()
        time.sleep(_PAUSE_SECONDS)
    connection.rollback()  # which leaves it


migrate()
