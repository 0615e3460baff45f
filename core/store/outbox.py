"""Wake-ups that are still to be published. The row is the job; a message only says that it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

import psycopg
from sqlalchemy import ColumnElement, delete, exists, func, make_url, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.store.models import Job, State, WakeUp

_CHANNEL = "retrograd_outbox"
_BATCH = 100


def add(session: Session, job_id: UUID, queue: str) -> None:
    """Have the job's workers woken once this transaction commits."""
    statement = insert(WakeUp).values(job_id=job_id, queue=queue).on_conflict_do_nothing()
    session.execute(statement.returning(func.pg_notify(_CHANNEL, "")))


def is_empty(session: Session) -> bool:
    """Whether there is nothing to publish."""
    return not session.execute(select(exists().select_from(WakeUp))).scalar_one()


def publish(session: Session, send: Callable[[UUID, str], None]) -> int:
    """Send up to a hundred wake-ups and forget them; returns how many.

    When `send` raises, the transaction is undone and what was sent is sent again: a message may come twice.
    Rows that another janitor is sending are passed over.
    """
    rows = session.execute(
        select(WakeUp.job_id, WakeUp.queue)
        .order_by(WakeUp.created_at)
        .limit(_BATCH)
        .with_for_update(skip_locked=True)
    ).all()
    for row in rows:
        send(row.job_id, row.queue)
    ids = [row.job_id for row in rows]
    session.execute(delete(WakeUp).where(WakeUp.job_id.in_(ids)))
    session.execute(update(Job).where(Job.id.in_(ids)).values(published_at=func.clock_timestamp()))
    return len(ids)


def overdue_queues(session: Session, seconds: float) -> list[str]:
    """Queues with a job that was woken so long ago that its message may be lost."""
    return list(session.scalars(select(Job.queue).where(_overdue(seconds)).distinct().order_by(Job.queue)))


def republish(session: Session, queue: str, seconds: float) -> int:
    """Put the overdue jobs of a queue into the outbox again; returns how many."""
    rows = session.execute(
        update(Job)
        .where(Job.queue == queue, _overdue(seconds))
        .values(published_at=func.clock_timestamp())
        .returning(Job.id)
    ).all()
    for row in rows:
        add(session, row.id, queue)
    return len(rows)


def _overdue(seconds: float) -> ColumnElement[bool]:
    age = timedelta(seconds=seconds)
    return (Job.state == State.QUEUED) & (Job.published_at < func.clock_timestamp() - age)


class Listener:
    """A connection that hears of new wake-ups as they are committed."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def wait(self, seconds: float) -> None:
        """Return at the next wake-up, or after `seconds`."""
        for _ in self._connection.notifies(timeout=seconds, stop_after=1):
            pass


@contextmanager
def listening(url: str) -> Iterator[Listener]:
    """Listen on the database at `url`."""
    conninfo = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(conninfo, autocommit=True, connect_timeout=5) as connection:
        connection.execute(f"LISTEN {_CHANNEL}")
        yield Listener(connection)
