"""As many numbers as a screen has room for, however many there are."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


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
    if length <= points or not series:
        return Thinned(x, list(series))
    stretches = max(1, (points - 2) // 2)
    edges = np.linspace(1, length - 1, stretches + 1).astype(int)
    starts, ends = edges[:-1], edges[1:]
    shown = np.concatenate([[0], np.column_stack([starts, ends - 1]).ravel(), [length - 1]])
    table = np.stack([np.asarray(line, np.float64) for line in series])
    extremes = _extremes(table, starts, ends)
    return Thinned(x[shown], list(np.concatenate([table[:, :1], extremes, table[:, -1:]], axis=1)))


def _extremes(table: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """[series, 2 × stretches]: NaN twice of a stretch that holds nothing else."""
    within = np.arange((ends - starts).max())
    places = starts[:, None] + within  # [stretches, widest]
    beyond = places >= ends[:, None]
    parts = table[:, np.minimum(places, table.shape[1] - 1)]
    unknown = beyond | np.isnan(parts)
    lowest = np.where(unknown, np.inf, parts).argmin(axis=-1)
    highest = np.where(unknown, -np.inf, parts).argmax(axis=-1)
    both = np.stack([np.minimum(lowest, highest), np.maximum(lowest, highest)], axis=-1)
    found = np.take_along_axis(parts, both, axis=-1)
    found[unknown.all(axis=-1)] = np.nan
    return found.reshape(len(table), -1)


def listed(values: np.ndarray) -> list[float | None]:
    """For JSON, which has no NaN."""
    return [value if math.isfinite(value) else None for value in values.tolist()]


def coded(values: np.ndarray) -> str:
    """As little-endian float32 in base64: many numbers, of which seven digits are more than a picture shows."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def spread(last: int, points: int) -> list[int]:
    """Whole numbers from 0 to `last`, so many at most, the same distance apart, both ends among them."""
    return sorted({round(place) for place in np.linspace(0, last, min(last + 1, points))})
