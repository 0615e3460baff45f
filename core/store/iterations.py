"""The record of meta-iterations, and what their certificates and diagnostics say of a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Boolean, ColumnElement, Double, cast, func, select
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


def certificate(session: Session, job_id: UUID) -> dict[str, Any] | None:
    """All certificates of a job as one, as good as the worst of them; None before there is any.

    Read from the rows each time, so that it cannot disagree with them.
    """
    exact = func.bool_and(func.coalesce(cast(_entry("exact"), Boolean), False))
    mismatched = cast(_entry("mismatched_bits"), BigInteger)
    row = session.execute(
        select(
            func.count().label("iterations"),
            exact.label("exact"),
            # An engine that compares nothing has no count; one such iteration leaves the total unknown.
            func.sum(mismatched).label("mismatched_bits"),
            func.count(mismatched).label("compared"),
            func.max(cast(_entry("stored_bits_per_param_step"), Double)).label("stored"),
            func.max(cast(_entry("bound_bits_per_param_step"), Double)).label("bound"),
            *(func.array_agg(_entry(name).distinct()).label(name) for name in ("engine", "mode")),
        ).where(MetaIteration.job_id == job_id, _entry("engine") != "")  # some had no gradient: training diverged
    ).one()
    if row.iterations == 0:
        return None
    return {
        "exact": row.exact,
        "iterations": row.iterations,
        "mismatched_bits": int(row.mismatched_bits) if row.compared == row.iterations else None,
        "stored_bits_per_param_step": row.stored,
        "bound_bits_per_param_step": row.bound,
        "engine": _joined(row.engine),
        "mode": _joined(row.mode),
    }


def _entry(name: str) -> ColumnElement[str]:
    return MetaIteration.certificate[name].astext


def _joined(names: list[str | None]) -> str | None:
    return ", ".join(sorted(name for name in names if name)) or None
