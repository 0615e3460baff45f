"""What happened to a job, in order. Written in the transaction of what they tell, numbered under the job's lock.

So a reader that knows event n has missed nothing up to n, and `Job.last_event` tells versions of a job apart.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from sqlalchemy import func, literal, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.store import tracking, webhooks
from core.store.arrays import as_json
from core.store.models import ENDED, Event, Job
from core.store.session import conninfo

CHANNEL = "retrograd_events"  # notified with the job's id


class Kind(StrEnum):
    """What can happen to a job."""

    CREATED = "created"
    HELD = "held"  # a worker could have taken it, but for its project's quotas
    STARTED = "started"  # a worker took it
    BEGUN = "begun"  # losses at its start are known
    TRIAL = "trial"  # of the search before the descent
    ITERATION = "iteration"  # a meta-iteration was done and kept
    PAUSE_REQUESTED = "pause_requested"
    PAUSED = "paused"
    RESUMED = "resumed"
    REQUEUED = "requeued"  # its worker gave it back, or was lost
    CANCEL_REQUESTED = "cancel_requested"
    RETRIED = "retried"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    WEBHOOK_DISABLED = "webhook_disabled"  # its receiver wants no more
    WEBHOOK_ENABLED = "webhook_enabled"  # a delivery was asked for anew


ENDS = (Kind.SUCCEEDED, Kind.FAILED, Kind.CANCELLED)


def record(session: Session, job_id: UUID, kind: Kind, **data: Any) -> int:
    """Keep an event of a job that this transaction changes; returns its number.

    An end is to be told to the job's webhook, and to be written to the tracking server.
    """
    numbered = (
        update(Job)
        .where(Job.id == job_id)
        .values(last_event=Job.last_event + 1)
        .returning(Job.id, Job.last_event)
        .cte("numbered")
    )
    row = select(
        numbered.c.id, numbered.c.last_event, literal(kind.value), literal(as_json(data), Event.data.type)
    )
    statement = insert(Event).from_select(["job_id", "number", "kind", "data"], row)
    # one statement, as every round trip holds the job's lock for longer
    found = session.execute(statement.returning(Event.number, func.pg_notify(CHANNEL, str(job_id))))
    number: int = found.scalar_one()
    if kind in ENDS:
        webhooks.tell(session, job_id, kind.value)
        tracking.note(session, job_id, number)
    return number


def page(session: Session, job_id: UUID, *, after: int, limit: int) -> Sequence[Event]:
    """Events in order, from the one after number `after` on; 0 is before the first."""
    query = select(Event).where(Event.job_id == job_id, Event.number > after)
    return session.scalars(query.order_by(Event.number).limit(limit)).all()


def latest_end(session: Session, job_id: UUID) -> int | None:
    """Number of the event that tells of a job's latest end; None where it has had none."""
    ends = select(func.max(Event.number)).where(
        Event.job_id == job_id, Event.kind.in_([kind.value for kind in ENDS])
    )
    return session.scalar(ends)


class News(NamedTuple):
    """What has happened to a job since some event."""

    events: Sequence[Event]
    newest: int  # number of the job's latest event, as of just before `events` were read
    ended: bool  # whether that was its end

    def are_all(self, position: int) -> bool:
        """Whether nothing is to be expected after the event `position`, unless the job is retried."""
        return self.ended and position == self.newest


def news(session: Session, job_id: UUID, *, after: int, limit: int) -> News | None:
    """Events from the one after number `after` on, and whether more are to come; None where there is no such job."""
    job = session.execute(select(Job.state, Job.last_event).where(Job.id == job_id)).one_or_none()
    if job is None:
        return None
    return News(page(session, job_id, after=after, limit=limit), job.last_event, job.state in ENDED)


async def notices(url: str) -> AsyncGenerator[UUID]:
    """Ids of jobs of the database at `url`, each just after events of it were committed; without an end.

    Holds a connection of its own. Raises psycopg.Error when that is lost; what happens until the next call is missed.
    """
    connection = await psycopg.AsyncConnection.connect(
        conninfo(url), autocommit=True, connect_timeout=5, keepalives_idle=30, application_name="retrograd events"
    )
    async with connection:
        await connection.execute(f"LISTEN {CHANNEL}")
        async for notice in connection.notifies():
            yield UUID(notice.payload)
