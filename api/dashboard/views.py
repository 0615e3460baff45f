"""What a job learns, as it is looked at: curves over steps, curves over meta-iterations, sheets, a histogram."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from sqlalchemy.orm import Session

from api.dashboard import sheets
from api.dashboard.thinning import coded, listed, spread, thinned
from core.hyperparameters import AUGMENTATIONS, Group, Layout
from core.spec import JobSpec
from core.store import jobs, learned
from core.store.models import Job

_LINES = 24  # curves; more cannot be told apart
_BINS = 40

Kind = Literal["curves", "trace", "sheets", "histogram"]


class View(NamedTuple):
    """How one hyperparameter is looked at.

    Attributes:
        name: of the hyperparameter.
        kind: curves along its first axis, a trace over meta-iterations of its few values, sheets of numbers as images,
            or a histogram. All but traces are of one meta-iteration.
        title: what is shown, where that is more than the name.
        unit: of its values.
        log: whether it is learned by its logarithm.
        axis: along which curves run.
        lines: names of the curves.
        of: how many there are.
    """

    name: str
    kind: Kind
    title: str
    unit: str
    log: bool
    axis: str = ""
    lines: tuple[str, ...] = ()
    of: int = 0


def views(job: Job) -> list[View]:
    """Of all that the job learns, in the order of its hyperparameters."""
    groups, layouts = jobs.layouts_for(job)
    spec = JobSpec.model_validate(job.spec)
    if spec.kind != "learn":
        return []  # nothing moves
    return [_view(spec, groups, layout) for layout in layouts.values() if layout.learn]


def frame(session: Session, job: Job, iteration: int, points: int) -> dict[str, Any]:
    """All views but traces, after so many updates, by name.

    Curves: `x`, and numbers (see `coded`) for each of `lines`. Histograms: `edges` and `counts`. Sheets: see
    `sheets.drawn`; their scale also spans the first and the latest values that were kept, so that it stays while one
    looks through them.

    Raises:
        NothingLearned, Pruned, UnknownIteration: see `learned.read`.
    """
    groups, layouts = jobs.layouts_for(job)
    spec = JobSpec.model_validate(job.spec)
    shown = [view for view in views(job) if view.kind != "trace"]
    values = learned.read(session, job, iteration, [view.name for view in shown]).values
    ends = _ends(session, job) if any(view.kind == "sheets" for view in shown) else []
    found: dict[str, Any] = {}
    for view in shown:
        layout = layouts[view.name]
        natural = np.asarray(layout.natural(values.pop(view.name)))
        match view.kind:
            case "curves":
                found[view.name] = _curves(natural, points)
            case "histogram":
                found[view.name] = _histogram(natural)
            case _:
                spans = [_spanned(session, job, other, spec, groups, layout) for other in ends]
                found[view.name] = sheets.drawn(spec, groups, layout, natural, spans)
    return {"iteration": iteration, "views": found}


def _spanned(
    session: Session, job: Job, iteration: int, spec: JobSpec, groups: tuple[Group, ...], layout: Layout
) -> sheets.Span | None:
    """What the sheets of one hyperparameter span after so many updates: a large one is held but here."""
    kept = learned.values_at(session, job.id, iteration, [layout.name])
    return (
        sheets.spanned(spec, groups, layout, np.asarray(layout.natural(kept[layout.name])))
        if layout.name in kept
        else None
    )


def traces(session: Session, job: Job, points: int) -> dict[str, Any]:
    """`iteration`: those that were kept, so many at most; and by name, for each of the curves a list."""
    _, layouts = jobs.layouts_for(job)
    names = [view.name for view in views(job) if view.kind == "trace"]
    wanted = spread(job.meta_iteration, points) if job.keeps_every_iteration else None
    found = learned.values_over_time(session, job.id, names, iterations=wanted)
    kept = sorted(found)

    def lines(name: str) -> list[list[float | None]]:
        each = np.array([np.ravel(layouts[name].natural(found[number][name])) for number in kept])
        return [listed(column) for column in each.reshape(len(kept), layouts[name].size).T]

    return {"iteration": kept, "lines": {name: lines(name) for name in names}}


def _view(spec: JobSpec, groups: tuple[Group, ...], layout: Layout) -> View:
    def view(kind: Kind, title: str = "", **more: Any) -> View:
        unit = layout.unit
        return View(layout.name, kind, title, unit, layout.transform == "log", **more)

    names = tuple(group.name.replace("_", " ") for group in groups)
    if layout.axes[:1] == ("step",):
        lines = names if "group" in layout.axes else ("all",)
        return view("curves", axis="step", lines=lines[:_LINES], of=len(lines))
    if layout.axes == ("example",):
        return view("histogram")
    if layout.size <= _LINES and len(layout.shape) < 2:
        match layout.axes:
            case ("group",):
                lines = names
            case ("move",):
                lines = AUGMENTATIONS
            case ():
                lines = (layout.name.replace("_", " "),)
            case _:
                lines = tuple(str(number) for number in range(1, layout.size + 1))
        return view("trace", lines=lines, of=len(lines))
    if spec.own is not None and len(layout.shape) == 1:  # whatever it is, it has an order
        return view("curves", axis="place", lines=("all",), of=1)
    found = view("sheets", sheets.title(groups, layout))
    return found._replace(unit="") if layout.axes == ("layer", "task", "task") else found  # correlations have none


def _ends(session: Session, job: Job) -> list[int]:
    if job.keeps_every_iteration:
        return [0, job.meta_iteration]
    kept = learned.kept_iterations(session, job.id)
    return [kept[0], kept[-1]] if kept else []


def _curves(natural: np.ndarray, points: int) -> dict[str, Any]:
    lines = natural.reshape(len(natural), -1).T[:_LINES]
    shown = thinned(np.arange(len(natural)), list(lines), points)
    return {"x": shown.x.tolist(), "lines": [coded(line) for line in shown.lines]}


def _histogram(natural: np.ndarray) -> dict[str, Any]:
    known = natural[np.isfinite(natural)]
    counts, edges = np.histogram(known, _BINS, (0.0, max(1.0, float(known.max(initial=1.0)))))
    return {
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "mean": float(known.mean()) if known.size else None,
    }
