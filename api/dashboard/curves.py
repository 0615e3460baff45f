"""Numbers for pictures: as many as a screen has room for, however many there are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy.orm import Session

from core.store import iterations, jobs, learned
from core.store.models import Job

_LINES = 24  # of groups; more cannot be told apart
_LOSSES = ("outer_loss", "train_loss", "valid_loss", "test_loss", "hypergradient_norm")


def over_iterations(session: Session, job: Job, points: int) -> dict[str, Any]:
    """Losses and hypergradient norms: `iteration`, and a list for each, null where it is no number."""
    columns = iterations.columns(session, job.id, _LOSSES)
    shown = thinned(columns["iteration"], [columns[name] for name in _LOSSES], points)
    found: dict[str, Any] = {"iteration": shown.x.tolist()}
    found |= {name: _listed(line) for name, line in zip(_LOSSES, shown.lines, strict=True)}
    return found | {"of": job.num_iterations, "best": job.best_iteration}


def schedules(job: Job) -> list[dict[str, Any]]:
    """Learned hyperparameters that differ from step to step."""
    groups, layouts = jobs.layouts_for(job)
    names = [group.name for group in groups]
    return [
        {
            "name": name,
            "groups": names[:_LINES] if "group" in layout.axes else ["all"],
            "of": len(names) if "group" in layout.axes else 1,
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
    natural = np.asarray(layout.natural(learned.read(session, job, iteration, [name]).values[name]))
    lines = natural.reshape(len(natural), -1).T[:_LINES]
    shown = thinned(np.arange(len(natural)), list(lines), points)
    return {"step": shown.x.tolist(), "lines": [_listed(line) for line in shown.lines]}


class Thinned(NamedTuple):
    """A picture's columns.

    Attributes:
        x: places along the axis, in order.
        lines: for each series, its values there.
    """

    x: np.ndarray
    lines: list[np.ndarray]


def thinned(x: np.ndarray, series: Sequence[np.ndarray], points: int) -> Thinned:
    """At most so many columns: all of them, or of each stretch the lowest and the highest value of every series, in the
    order in which they come, so that no peak of any is lost. The first and the last column are as they are.
    """
    length = len(x)
    if length <= points:
        return Thinned(x, list(series))
    stretches = max(1, (points - 2) // 2)
    edges = np.linspace(1, length - 1, stretches + 1).astype(int)
    edges = edges[np.concatenate([[True], np.diff(edges) > 1])]  # two places each
    starts, ends = edges[:-1], edges[1:]
    shown = np.concatenate([[0], np.column_stack([starts, ends - 1]).ravel(), [length - 1]])
    return Thinned(x[shown], [_extremes(line, starts, ends) for line in series])


def _extremes(line: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    found = [line[0]]
    for start, end in zip(starts, ends, strict=True):
        part = line[start:end]
        if np.isnan(part).all():
            found += [np.nan, np.nan]
            continue
        lowest, highest = np.nanargmin(part), np.nanargmax(part)
        found += [part[min(lowest, highest)], part[max(lowest, highest)]]
    return np.array([*found, line[-1]])


def _listed(values: np.ndarray) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]
