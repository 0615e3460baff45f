"""How all figures look."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

COLOURS = ("#1f4e79", "#c0504d", "#4f8a4c", "#8064a2", "#d08a2e", "#2e8b9a", "#7f6a55", "#555555")
_GRID = {"color": "#dddddd", "linewidth": 0.6}


def blank(
    rows: int = 1, columns: int = 1, *, width: float = 6.4, height: float = 3.6, **options: Any
) -> tuple[Figure, Any]:
    """A figure, and its axes as an array [rows, columns]. No pyplot: several threads may draw."""
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for one in axes.flat:
        one.set_prop_cycle(color=COLOURS)
        one.grid(True, **_GRID)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def legend(axes: Any, **options: Any) -> None:
    """Beside the curves if there are several."""
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(frameon=False, fontsize=8, **options)


def images(figure: Figure, axes: Any, pictures: np.ndarray, label: str, *, columns: int = 5) -> None:
    """Square pictures [n, pixels] side by side, in blue where negative and red where positive, with one scale."""
    count, side = len(pictures), math.isqrt(pictures.shape[-1])
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (side + 1) - 1, columns * (side + 1) - 1), np.nan)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        top, left = row * (side + 1), column * (side + 1)
        sheet[top : top + side, left : left + side] = picture.reshape(side, side)
    signed = bool(np.nanmin(sheet) < 0)
    largest = float(np.nanmax(np.abs(sheet))) or 1.0
    shown = axes.imshow(
        sheet,
        cmap="RdBu_r" if signed else "viridis",
        vmin=-largest if signed else float(np.nanmin(sheet)),
        vmax=largest,
        interpolation="none",
    )
    axes.set_axis_off()
    figure.colorbar(shown, ax=axes, shrink=0.7, label=label)


def square(pixels: int) -> bool:
    """Whether so many pixels make a picture."""
    return math.isqrt(pixels) ** 2 == pixels and pixels > 1
