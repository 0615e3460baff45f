"""The record of meta-iterations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.records import MetaRecord
from core.store.arrays import as_json
from core.store.models import MetaIteration


def save(session: Session, job_id: UUID, record: MetaRecord, *, attempt: int, lease_epoch: int) -> bool:
    """Keep one meta-iteration; a second time changes nothing, and returns False."""
    row = {
        "job_id": job_id,
        "iteration": record.iteration,
        **{f"{part}_loss": float(loss) for part, loss in record.losses._asdict().items()},
        "hypergradient_norm": float(record.hypergradient_norm),
        "seconds": record.seconds,
        "certificate": as_json(record.certificate),
        "diagnostics": as_json(record.diagnostics),
        "attempt": attempt,
        "lease_epoch": lease_epoch,
    }
    statement = insert(MetaIteration).values(row).on_conflict_do_nothing()
    return session.scalar(statement.returning(MetaIteration.iteration)) is not None


def page(session: Session, job_id: UUID, *, after: int | None, limit: int) -> Sequence[MetaIteration]:
    """Meta-iterations in order, from the one after `after` on."""
    query = (
        select(MetaIteration).where(MetaIteration.job_id == job_id).order_by(MetaIteration.iteration).limit(limit)
    )
    if after is not None:
        query = query.where(MetaIteration.iteration > after)
    return session.scalars(query).all()


def rows(session: Session, job_id: UUID, names: Sequence[str]) -> Iterable[Sequence[Any]]:
    """Some columns of all meta-iterations, in order, a tuple for each: objects take longer to make."""
    wanted = [getattr(MetaIteration, name) for name in names]
    query = select(*wanted).where(MetaIteration.job_id == job_id).order_by(MetaIteration.iteration)
    return session.execute(query)


def columns(session: Session, job_id: UUID, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Some columns of all meta-iterations, in order: `iteration`, int64, and each of the names, float64."""
    wanted = ("iteration", *names)
    table = np.array(list(rows(session, job_id, wanted)), np.float64).reshape(-1, len(wanted))
    return {"iteration": table[:, 0].astype(np.int64)} | {name: table[:, at] for at, name in enumerate(names, 1)}


def kept_at(session: Session, job_id: UUID) -> np.ndarray:
    """When each meta-iteration was kept, in their order: float64, seconds since 1970."""
    seconds = func.extract("epoch", MetaIteration.created_at)
    query = select(seconds).where(MetaIteration.job_id == job_id).order_by(MetaIteration.iteration)
    return np.array(session.scalars(query).all(), np.float64)


def get(session: Session, job_id: UUID, iteration: int) -> MetaIteration | None:
    """One meta-iteration."""
    return session.get(MetaIteration, (job_id, iteration))


def diagnostics(session: Session, job_id: UUID, iteration: int) -> dict[str, Any] | None:
    """The latest diagnostics up to `iteration`, with the iteration they were measured at; None where there are none."""
    row = session.execute(
        select(MetaIteration.iteration, MetaIteration.diagnostics)
        .where(
            MetaIteration.job_id == job_id,
            MetaIteration.iteration <= iteration,
            MetaIteration.diagnostics.has_key(
                "seconds"
            ),  # of what the spec asked to measure, and not of a safeguard
        )
        .order_by(MetaIteration.iteration.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None or row.diagnostics is None else {"iteration": row.iteration, **row.diagnostics}
