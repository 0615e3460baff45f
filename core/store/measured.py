"""Arrays that a job measured beside what it learned: learning curves, hypergradients over seeds."""

from __future__ import annotations

from uuid import UUID

import numpy as np
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.records import Values
from core.store.arrays import decode, encode
from core.store.models import MeasuredArray


def save(session: Session, job_id: UUID, arrays: dict[str, np.ndarray]) -> None:
    """Keep them; a second time changes nothing."""
    for name, array in arrays.items():
        row = {"job_id": job_id, "name": name, **encode(array)}
        session.execute(insert(MeasuredArray).values(row).on_conflict_do_nothing())


def read(session: Session, job_id: UUID) -> Values:
    """All of a job's, by name."""
    rows = session.scalars(
        select(MeasuredArray).where(MeasuredArray.job_id == job_id).order_by(MeasuredArray.name)
    )
    return {row.name: decode(row) for row in rows}
