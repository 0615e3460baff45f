"""Ended jobs that nobody needs any more."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, exists, func, select
from sqlalchemy.orm import Session

from core.store.models import ENDED, Delivery, Job, TrackedEnd

_BATCH = 50  # each may have many thousand rows in other tables, which go with it
_LOCK = 5_264_001  # of all janitors on this database


def sweep(session: Session, days: float, *, tracked: bool = False) -> int:
    """Delete up to fifty jobs that ended more than `days` ago, and all that belongs to them; returns how many.

    0 while another janitor does so. A job that is being retried meanwhile is passed over, and one whose webhook is
    still to be told of its end; or, if ends are `tracked`, whose run is still to be written.
    """
    if not session.scalar(select(func.pg_try_advisory_xact_lock(_LOCK))):
        return 0
    old = session.scalars(
        select(Job.id)
        .where(
            Job.state.in_(ENDED),
            Job.ended_at < func.statement_timestamp() - timedelta(days=days),
            ~exists().where(Delivery.job_id == Job.id, Delivery.next_attempt_at.is_not(None)),
            *([~exists().where(TrackedEnd.job_id == Job.id, TrackedEnd.next_attempt_at.is_not(None))] * tracked),
        )
        .order_by(Job.ended_at)
        .limit(_BATCH)
        .with_for_update(skip_locked=True)
    ).all()
    session.execute(delete(Job).where(Job.id.in_(old)))
    return len(old)
