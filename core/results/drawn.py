"""What figures are drawn from, read from the store. Loads Matplotlib."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy.orm import Session

from core.figures.data import OVER_TIME, JobData, Row
from core.spec import JobSpec
from core.store import iterations, jobs, learned, measured, trials
from core.store.errors import NothingLearned, Pruned
from core.store.models import Job

_COLUMNS = (
    "iteration", "outer_loss", "train_loss", "valid_loss", "test_loss", "certificate", "diagnostics",
)  # fmt: skip


def read(session: Session, job: Job) -> JobData:
    """A job as far as it has come."""
    spec = JobSpec.model_validate(job.spec)
    groups, layouts = jobs.layouts_for(job)
    values = learned.values_over_time(session, job.id, OVER_TIME)
    with suppress(NothingLearned, Pruned):
        best = learned.read(session, job, "best")
        values[best.iteration] = best.values
    rows = tuple(
        Row(*(*known, diagnostics or {})) for *known, diagnostics in iterations.rows(session, job.id, _COLUMNS)
    )
    return JobData(
        spec=spec,
        groups=groups,
        layouts=layouts,
        rows=rows,
        values=values,
        best=job.best_iteration,
        measured=measured.read(session, job.id),
        trials=tuple(trials.read(session, job.id)),
    )
