"""How all figures look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8b5a2b", "#555555")
"""Okabe and Ito's, which colour-blind eyes tell apart; two more take the place of yellow and black."""
GUIDE = "#777777"
_GRID = {"color": "#e4e4e4", "linewidth": 0.6}
_SMALL = 8.5
_LINE_HEIGHT = 13.0  # points between two names beside curves
_MARKED_POINTS = 12  # curves of fewer show where they were measured


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
        one.tick_params(labelsize=_SMALL)
    return figure, axes


def title(axes: Any, text: str) -> None:
    """What stands above."""
    axes.set_title(text, fontsize=9, loc="left")


def legend(axes: Any, **options: Any) -> None:
    """Beside the curves if there are several."""
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize=_SMALL, **options)


def name_curves(figure: Figure, *several: Any) -> None:
    """Write the name of each curve at its end, in its colour; where ends meet, names make room for each other.

    To be called when the limits of the axes are final.
    """
    figure.draw_without_rendering()  # lays the axes out: how much room a name needs depends on their height
    for axes in several:
        ends: dict[Any, float] = {}
        for curve in axes.get_lines():
            values = np.asarray(curve.get_ydata(), float)
            if not curve.get_label().startswith("_") and (finite := values[np.isfinite(values)]).size:
                place = axes.transAxes.inverted().transform(axes.transData.transform((0, finite[-1])))
                ends[curve] = float(np.clip(place[1], 0, 1))
        least = _LINE_HEIGHT / (axes.get_position().height * figure.get_figheight() * 72)
        for curve, place in zip(ends, _apart(list(ends.values()), least), strict=True):
            axes.annotate(
                curve.get_label(),
                (1.0, place),
                xycoords="axes fraction",
                xytext=(4, 0),
                textcoords="offset points",
                color=curve.get_color(),
                fontsize=_SMALL,
                va="center",
            )


def _apart(wanted: Sequence[float], least: float) -> list[float]:
    """Places near those wanted, in the same order, no two closer than `least`."""
    order = np.argsort(wanted, kind="stable")
    blocks: list[list[int]] = []  # neighbours that touch, placed around the mean of what they want

    def start(block: list[int]) -> float:
        return float(np.mean([wanted[one] for one in block])) - least * (len(block) - 1) / 2

    for one in order:
        blocks.append([int(one)])
        while len(blocks) > 1 and start(blocks[-2]) + least * len(blocks[-2]) > start(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    places = np.zeros(len(wanted))
    for block in blocks:
        places[block] = start(block) + least * np.arange(len(block))
    places += max(0.0, -places.min(initial=0)) - max(0.0, places.max(initial=1) - 1)
    return [float(place) for place in places]


def over_iterations(axes: Any, curves: Sequence[Any]) -> None:
    """Whole numbers along the x axis, and marks where there are few."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10)))
    for curve in curves:
        if len(curve.get_xdata()) <= _MARKED_POINTS:
            curve.set(marker="o", markersize=4)


def from_zero(axes: Any) -> None:
    """Show 0 unless that would flatten curves which keep far from it."""
    least, high = axes.dataLim.y0, axes.get_ylim()[1]
    if 0 <= least < 0.7 * high:
        axes.set_ylim(bottom=0)


def plain_log(axis: Any) -> None:
    """Numbers along a logarithmic axis as they are said: 0.05, not 5 × 10⁻²; powers where they span many decades."""
    low, high = axis.get_view_interval()
    if not 0 < low < high or high / low > 1e4:
        return
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def images(
    figure: Figure,
    axes: Any,
    pictures: np.ndarray,
    label: str,
    *,
    columns: int = 5,
    names: Sequence[str] = (),
    log: bool = False,
) -> None:
    """Square pictures [n, pixels] side by side with one scale: blue where negative and red where positive, or from dark
    to light where none is negative.
    """
    count, side = len(pictures), math.isqrt(pictures.shape[-1])
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (side + 1) - 1, columns * (side + 1) - 1), np.nan)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        top, left = row * (side + 1), column * (side + 1)
        sheet[top : top + side, left : left + side] = picture.reshape(side, side)
    least, largest = float(np.nanmin(sheet)), float(np.nanmax(np.abs(sheet))) or 1.0
    signed = least < 0
    norm = LogNorm(least, largest) if log and least > 0 else Normalize(-largest if signed else least, largest)
    shown = axes.imshow(sheet, cmap="RdBu_r" if signed else "viridis", norm=norm, interpolation="none")
    for number, name in enumerate(names[:count]):
        row, column = divmod(number, columns)
        place = (column * (side + 1) + 0.5, row * (side + 1) + 0.5)
        axes.text(*place, name, fontsize=_SMALL, color="black" if signed else "white", ha="left", va="top")
    axes.set_axis_off()
    bar = figure.colorbar(shown, ax=axes, shrink=0.8)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=_SMALL)


def square(pixels: int) -> bool:
    """Whether so many pixels make a picture."""
    return math.isqrt(pixels) ** 2 == pixels and pixels > 1
