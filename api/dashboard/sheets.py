"""Numbers as images: penalties and initial weights of a layer, learned images, who shares with whom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from api.dashboard.thinning import coded
from core.hyperparameters import Group, Layout, units_of
from core.spec import JobSpec, MultitaskProblem

_SHEETS = 20
_COLUMNS = 120  # of examples beside each other
_CELLS = 60_000  # of all sheets of a view together: a screen shows no more apart
_DECADE = 10.0

Span: TypeAlias = tuple[float, float]
"""The least and the greatest of some numbers."""


class Sheet(NamedTuple):
    """One image.

    Attributes:
        name: of it among the others; empty where it is alone.
        cells: [rows, columns], natural values.
        rows: what rows are called, if they have names.
    """

    name: str
    cells: np.ndarray
    rows: tuple[str, ...] = ()


def title(groups: tuple[Group, ...], layout: Layout) -> str:
    """What the sheets of this hyperparameter show."""
    match layout.axes:
        case ("weight",) | ("shared_weight",):
            inputs, units = _first(groups[0].shape, layout)
            return (
                f"first layer, an image for each of {units} units"
                if _square(inputs)
                else "first layer: inputs × units"
            )
        case ("unit",):
            return "a row for each layer"
        case ("group",):
            return "a column for each group"
        case ("example", "feature"):
            return "an image for each example" if _square(layout.shape[1]) else "examples × features"
        case ("example", "class"):
            return "classes × examples"
        case ("layer", "task", "task"):
            return "correlation of tasks, by T Tᵀ"
    return " × ".join(map(str, layout.shape))


def spanned(spec: JobSpec, groups: tuple[Group, ...], layout: Layout, natural: np.ndarray) -> Span | None:
    """The least and the greatest number that the sheets of natural values show; None where they show none."""
    ends = [
        (float(known.min()), float(known.max()))
        for sheet in _sheets(spec, groups, layout, natural)[:_SHEETS]
        if (known := sheet.cells[np.isfinite(sheet.cells)]).size
    ]
    return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else None


def drawn(
    spec: JobSpec, groups: tuple[Group, ...], layout: Layout, natural: np.ndarray, others: Sequence[Span | None]
) -> dict[str, Any]:
    """What a browser draws the sheets of natural values from.

    `sheets`: name, rows, columns, values by rows (see `coded`), and names of the rows if they have any. `low`, `high`
    and `scale` (linear, log, signed) are of these and all `others`, what is `spanned` at other times. `of`: how many
    sheets there are. `reduced`: each number is the mean of so many rows and columns.
    """
    made = _sheets(spec, groups, layout, natural)
    shown = made[:_SHEETS]
    most = max(8, math.isqrt(_CELLS // len(shown)))
    cells = shown[0].cells.shape
    by = (-(-cells[0] // most), -(-cells[1] // most))
    return {
        "sheets": [_coded(sheet, by) for sheet in shown],
        "of": len(made),
        "reduced": list(by),
        **_scale(layout, [spanned(spec, groups, layout, natural), *others]),
    }


def _sheets(spec: JobSpec, groups: tuple[Group, ...], layout: Layout, natural: np.ndarray) -> list[Sheet]:
    match layout.axes:
        case ("weight",) | ("shared_weight",):
            inputs, units = _first(groups[0].shape, layout)
            weights = natural[: inputs * units].reshape(inputs, units)
            if not _square(inputs):
                return [Sheet("", weights)]
            unit = "class" if len(groups) == 2 else "unit"
            return [Sheet(f"{unit} {number}", _image(one)) for number, one in enumerate(weights.T)]
        case ("unit",):
            ends = np.cumsum(units_of(groups))[:-1]
            return [Sheet(f"layer {n}", part[None]) for n, part in enumerate(np.split(natural, ends), start=1)]
        case ("group",):
            return [Sheet("", natural[None])]
        case ("example", "feature"):
            if not _square(natural.shape[1]):
                return [Sheet("", natural)]
            classes = groups[-1].shape[-1]
            return [Sheet(f"class {number % classes}", _image(one)) for number, one in enumerate(natural)]
        case ("example", "class"):
            called = tuple(f"class {number}" for number in range(natural.shape[1]))
            return [Sheet(f"the first {min(_COLUMNS, len(natural))} examples", natural[:_COLUMNS].T, called)]
        case ("layer", "task", "task"):
            names = _tasks(spec)
            return [Sheet(f"layer {n}", _correlation(one), names) for n, one in enumerate(natural, start=1)]
    tables = natural.reshape(-1, *natural.shape[-2:])
    return [Sheet("" if len(tables) == 1 else str(number), one) for number, one in enumerate(tables, start=1)]


def _first(shape: tuple[int, ...], layout: Layout) -> tuple[int, int]:
    """Inputs and units of the first group, of one task where there are several."""
    own = shape[1:] if layout.axes == ("shared_weight",) else shape
    return (int(np.prod(own[:-1])), own[-1]) if own else (1, 1)


def _square(pixels: int) -> bool:
    return math.isqrt(pixels) ** 2 == pixels and pixels > 1


def _image(pixels: np.ndarray) -> np.ndarray:
    side = math.isqrt(len(pixels))
    return pixels.reshape(side, side)


def _correlation(mixing: np.ndarray) -> np.ndarray:
    covariance = mixing @ mixing.T
    deviations = np.sqrt(np.diag(covariance))
    with np.errstate(invalid="ignore", divide="ignore"):  # a task that is mixed of none correlates with none
        found: np.ndarray = covariance / np.outer(deviations, deviations)
    return found


def _tasks(spec: JobSpec) -> tuple[str, ...]:
    problem = spec.problem
    assert isinstance(problem, MultitaskProblem)  # noqa: S101 - for the type checker
    names = tuple(name.replace("_", " ") for name in problem.dataset.alphabets)
    return names + (tuple(f"{name}, turned" for name in names) if problem.dataset.rotated else ())


def _scale(layout: Layout, spans: Sequence[Span | None]) -> dict[str, Any]:
    if layout.axes == ("layer", "task", "task"):
        return {"low": -1.0, "high": 1.0, "scale": "signed"}
    known = [span for span in spans if span is not None]
    if not known:
        return {"low": 0.0, "high": 1.0, "scale": "linear"}
    low, high = min(span[0] for span in known), max(span[1] for span in known)
    if low < 0:
        high = max(-low, high)
        return {"low": -high, "high": high, "scale": "signed"}
    return {"low": low, "high": high, "scale": "log" if 0 < low * _DECADE < high else "linear"}


def _coded(sheet: Sheet, by: tuple[int, int]) -> dict[str, Any]:
    cells = _reduced(_reduced(sheet.cells, by[0], 0), by[1], 1)
    return {
        "name": sheet.name,
        "rows": cells.shape[0],
        "columns": cells.shape[1],
        "values": coded(cells),
        "row_names": list(sheet.rows) if by[0] == 1 else [],
    }


def _reduced(cells: np.ndarray, by: int, axis: int) -> np.ndarray:
    """Means of so many neighbours along an axis, the last of fewer."""
    if by == 1:
        return cells
    starts = np.arange(0, cells.shape[axis], by)
    counts = np.diff([*starts, cells.shape[axis]])
    found: np.ndarray = np.add.reduceat(cells, starts, axis) / (counts[:, None] if axis == 0 else counts)
    return found
