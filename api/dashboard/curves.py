"""Numbers for pictures: as many as a screen has room for, however many there are."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from core.store import iterations, jobs, learned
from core.store.models import Job

_LINES = 24  # of groups; more cannot be told apart
_LOSSES = ("outer_loss", "train_loss", "valid_loss", "test_loss", "hypergradient_norm")


def over_iterations(session: Session, job: Job, points: int) -> dict[str, Any]:
    """Losses and hypergradient norms: `iteration`, and a list for each, null where it is no number."""
    columns = iterations.columns(session, job.id, _LOSSES)
    kept = thinned([columns["outer_loss"], columns["hypergradient_norm"]], points)
    found: dict[str, Any] = {"iteration": columns["iteration"][kept].tolist()}
    for name in _LOSSES:
        found[name] = _listed(columns[name][kept])
    return found | {"of": job.num_iterations, "best": job.best_iteration}


def schedules(job: Job) -> list[dict[str, Any]]:
    """Learned hyperparameters that differ from step to step."""
    groups, layouts = jobs.layouts_for(job)
    names = [group.name for group in groups]
    return [
        {
            "name": name,
            "groups": names[:_LINES] if "group" in layout.axes else ["all"],
            "unit": layout.unit,
            "log": layout.transform == "log",
        }
        for name, layout in layouts.items()
        if layout.learn and layout.axes[:1] == ("step",)
    ]


def schedule(session: Session, job: Job, name: str, iteration: int, points: int) -> dict[str, Any]:
    """A schedule after so many updates: `step`, and a list for each group in `lines`.

    Raises:
        KeyError: the job learns no such schedule.
        NothingLearned, Pruned, UnknownIteration: see `learned.read`.
    """
    _, layouts = jobs.layouts_for(job)
    layout = layouts[name]
    if layout.axes[:1] != ("step",):
        raise KeyError(name)
    natural = np.asarray(layout.natural(learned.read(session, job, iteration).values[name]))
    lines = natural.reshape(len(natural), -1).T[:_LINES]
    kept = thinned(list(lines), points)
    return {"step": kept.tolist(), "lines": [_listed(line[kept]) for line in lines]}


def thinned(series: list[np.ndarray], points: int) -> np.ndarray:
    """Places to show, in order: all, or of each of so many stretches where some series is lowest and highest, so that
    no peak is lost; and the first and the last.
    """
    length = len(series[0])
    if length <= points:
        return np.arange(length)
    stretches = max(1, points // (2 * len(series)))
    edges = np.linspace(0, length, stretches + 1).astype(int)
    places = {0, length - 1}
    for values in series:
        filled = np.where(np.isfinite(values), values, np.nan)
        for start, end in pairwise(edges):
            part = filled[start:end]
            if np.isfinite(part).any():
                places |= {int(start + np.nanargmin(part)), int(start + np.nanargmax(part))}
    return np.array(sorted(places))


def _listed(values: np.ndarray) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]
