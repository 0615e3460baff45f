"""Losses and hypergradient norms of a job, over meta-iterations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy.orm import Session

from api.dashboard.thinning import listed, thinned
from core.store import iterations
from core.store.models import Job

Series = Literal["outer_loss", "train_loss", "valid_loss", "test_loss", "hypergradient_norm"]


def over_iterations(session: Session, job: Job, points: int, names: Sequence[Series]) -> dict[str, Any]:
    """`iteration`, and a list for each of these losses and norms, null where it is no number."""
    columns = iterations.columns(session, job.id, names)
    shown = thinned(columns["iteration"], [columns[name] for name in names], points)
    found: dict[str, Any] = {"iteration": shown.x.tolist()}
    found |= {name: listed(line) for name, line in zip(names, shown.lines, strict=True)}
    return found | {"of": job.num_iterations, "best": job.best_iteration}
