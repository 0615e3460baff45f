"""Ends of jobs that are to become runs on a tracking server: noted in the transaction that ends the job.

Taken for a while, written outside of any transaction, settled. Whoever takes one and vanishes has lost it when the
while is over. Every end is noted, whether or not there is a server: only who writes runs knows that.
"""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.store.models import TrackedEnd

_BATCH = 1000


class Due(NamedTuple):
    """One attempt to be made."""

    job_id: UUID
    event: int
    attempt: int  # 1 is the first


def note(session: Session, job_id: UUID, event: int) -> None:
    """Have the end that this event tells of written."""
    session.execute(insert(TrackedEnd).values(job_id=job_id, event=event))


def claim(session: Session, seconds: float) -> Due | None:
    """Take what has been due longest for `seconds`; None when nothing is."""
    longest = (
        select(TrackedEnd.job_id, TrackedEnd.event)
        # not the clock's own time, which is another in every row: no index could be searched for it
        .where(TrackedEnd.next_attempt_at <= func.statement_timestamp())
        .order_by(TrackedEnd.next_attempt_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    found = session.execute(longest).one_or_none()
    if found is None:
        return None
    taken = session.execute(
        update(TrackedEnd)
        .where(TrackedEnd.job_id == found.job_id, TrackedEnd.event == found.event)
        .values(attempt=TrackedEnd.attempt + 1, next_attempt_at=_in(seconds))
        .returning(TrackedEnd.attempt)
    ).one()
    return Due(found.job_id, found.event, taken.attempt)


def hold(session: Session, due: Due, seconds: float) -> bool:
    """Keep it for `seconds` more; False when another attempt has begun since, or the job is no more."""
    held = update(TrackedEnd).where(*_is(due)).values(next_attempt_at=_in(seconds)).returning(TrackedEnd.event)
    return session.scalar(held) is not None


def written(session: Session, due: Due, run_id: str) -> None:
    """It is on the server, whichever attempt it was."""
    session.execute(
        update(TrackedEnd)
        .where(TrackedEnd.job_id == due.job_id, TrackedEnd.event == due.event)
        .values(run_id=run_id, next_attempt_at=None, last_error=None)
    )


def failed(session: Session, due: Due, error: str, retry_seconds: float) -> None:
    """It could not be written: another attempt is due in `retry_seconds`. Unless there was one since."""
    session.execute(
        update(TrackedEnd).where(*_is(due)).values(next_attempt_at=_in(retry_seconds), last_error=error)
    )


def forget(session: Session, seconds: float) -> int:
    """Drop up to a thousand ends, noted more than `seconds` ago, that nobody has written; returns how many."""
    old = (
        select(TrackedEnd.job_id, TrackedEnd.event)
        .where(TrackedEnd.next_attempt_at <= func.statement_timestamp() - timedelta(seconds=seconds))
        .limit(_BATCH)
        .with_for_update(skip_locked=True)
    )
    gone = delete(TrackedEnd).where(tuple_(TrackedEnd.job_id, TrackedEnd.event).in_(old))
    return len(session.scalars(gone.returning(TrackedEnd.event)).all())


def _in(seconds: float) -> ColumnElement[object]:
    return func.clock_timestamp() + timedelta(seconds=seconds)


def _is(due: Due) -> tuple[ColumnElement[bool], ...]:
    return (
        TrackedEnd.job_id == due.job_id,
        TrackedEnd.event == due.event,
        TrackedEnd.attempt == due.attempt,
        TrackedEnd.next_attempt_at.is_not(None),
    )
