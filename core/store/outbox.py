"""Wake-ups that are still to be published. The row is the job; a message only says that it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import ColumnElement, delete, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.store.models import Job, State, WakeUp
from core.store.session import conninfo

_CHANNEL = "retrograd_outbox"
_BATCH = 100
_DUE = WakeUp.created_at <= func.statement_timestamp()
_WAITING = (Job.state == State.QUEUED, ~Job.held)  # for a worker, and not for its project's quotas


def add(session: Session, job_id: UUID, queue: str, delay: float = 0.0) -> None:
    """Have the job's workers woken once this transaction commits, or `delay` seconds later."""
    due = func.clock_timestamp() + timedelta(seconds=delay)
    statement = insert(WakeUp).values(job_id=job_id, queue=queue, created_at=due).on_conflict_do_nothing()
    session.execute(statement.returning(func.pg_notify(_CHANNEL, "")))


def is_empty(session: Session) -> bool:
    """Whether there is nothing to publish yet."""
    return not session.execute(select(exists().select_from(WakeUp).where(_DUE))).scalar_one()


def publish(session: Session, send: Callable[[UUID, str], None]) -> int:
    """Send up to a hundred wake-ups and forget them; returns how many.

    When `send` raises, the transaction is undone and what was sent is sent again: a message may come twice.
    Rows that another janitor is sending are passed over.
    """
    rows = session.execute(
        select(WakeUp.job_id, WakeUp.queue)
        .where(_DUE)
        .order_by(WakeUp.created_at)
        .limit(_BATCH)
        .with_for_update(skip_locked=True)
    ).all()
    for row in rows:
        send(row.job_id, row.queue)
    ids = [row.job_id for row in rows]
    session.execute(delete(WakeUp).where(WakeUp.job_id.in_(ids)))
    # one that another transaction is changing is published again at worst; to wait for it could be a deadlock
    free = select(Job.id).where(Job.id.in_(ids)).with_for_update(skip_locked=True)
    session.execute(update(Job).where(Job.id.in_(free)).values(published_at=func.clock_timestamp()))
    return len(ids)


def overdue_queues(session: Session, seconds: float) -> list[str]:
    """Queues with a job that was woken so long ago that its message may be lost."""
    queue, first = _first_of_queues()
    return list(session.scalars(select(queue).where(first < _long_ago(seconds)).order_by(queue)))


def longest_wait(session: Session) -> float:
    """Seconds since the job that waits longest for a worker was woken; 0 where none does."""
    _, first = _first_of_queues()
    found = session.scalar(select(func.extract("epoch", func.statement_timestamp() - func.min(first))))
    return max(0.0, float(found or 0.0))


def _first_of_queues() -> tuple[Any, Any]:
    """Every queue with waiting jobs, and when the one that waits longest was woken.

    One search for each queue, however many jobs wait in it: from each to the next, and its longest waiting job.
    """
    queued = select(func.min(Job.queue).label("queue")).where(*_WAITING)
    queues = queued.cte("queues", recursive=True)
    following = queued.where(Job.queue > queues.c.queue).correlate(queues).scalar_subquery()
    queues = queues.union_all(select(following).where(queues.c.queue.is_not(None)))
    first = select(func.min(Job.published_at)).where(*_WAITING, Job.queue == queues.c.queue)
    return queues.c.queue, first.correlate(queues).scalar_subquery()


def republish(session: Session, queue: str, seconds: float, *, drained: bool) -> int:
    """Put up to a hundred overdue jobs of a queue into the outbox again, those that wait longest; returns how many.

    All are taken to have lost their message where the queue is `drained`, else those that a job woken later has
    overtaken: messages are taken in order, and a queue that always holds some must not hide that one is missing.
    The others are as overdue in the next round, if the hundred have been taken by then.
    """
    newest_taken = select(func.max(Job.published_at)).where(Job.queue == queue, Job.state == State.RUNNING)
    lost = () if drained else (Job.published_at < newest_taken.scalar_subquery(),)
    longest = (
        select(Job.id)
        .where(*_WAITING, Job.queue == queue, Job.published_at < _long_ago(seconds), *lost)
        .order_by(Job.published_at)
        .limit(_BATCH)
        .with_for_update(skip_locked=True)
    )
    ids = session.scalars(
        update(Job).where(Job.id.in_(longest)).values(published_at=func.clock_timestamp()).returning(Job.id)
    ).all()
    for job_id in ids:
        add(session, job_id, queue)
    return len(ids)


def _long_ago(seconds: float) -> ColumnElement[datetime]:
    # of the statement, not the clock's own time, which is another in every row: no index could be searched for it
    return func.statement_timestamp() - timedelta(seconds=seconds)


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
    with psycopg.connect(conninfo(url), autocommit=True, connect_timeout=5) as connection:
        connection.execute(f"LISTEN {_CHANNEL}")
        yield Listener(connection)
