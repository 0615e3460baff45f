"""The search before a descent, trial by trial."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.records import Trial
from core.store.models import SavedTrial


def save(session: Session, job_id: UUID, trial: Trial) -> bool:
    """Keep a trial; a second time changes nothing, and returns False."""
    statement = insert(SavedTrial).values(job_id=job_id, **trial._asdict()).on_conflict_do_nothing()
    return session.scalar(statement.returning(SavedTrial.number)) is not None


def read(session: Session, job_id: UUID) -> list[Trial]:
    """All of a job's, in order."""
    rows = session.scalars(select(SavedTrial).where(SavedTrial.job_id == job_id).order_by(SavedTrial.number))
    return [Trial(row.number, dict(row.values), row.outer_loss) for row in rows]
