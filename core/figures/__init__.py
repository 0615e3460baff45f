"""Figures of jobs, drawn from their stored results. Matplotlib, no JAX."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Literal, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from core.errors import UnknownFigure
from core.figures import learned, measured
from core.figures.data import JobData, Row

__all__ = ["FIGURES", "JobData", "Row", "draw", "names"]


class Drawing(NamedTuple):
    """One kind of figure."""

    applies: Callable[[JobData], bool]
    draw: Callable[[JobData], Figure]

    @property
    def title(self) -> str:
        """What it shows."""
        return (self.draw.__doc__ or "").strip().splitlines()[0]


FIGURES = {
    name: Drawing(getattr(module, f"has_{name}"), getattr(module, name))
    for module in (learned, measured)
    for name in (one.removeprefix("has_") for one in vars(module) if one.startswith("has_"))
}
_one_at_a_time = threading.Lock()  # Matplotlib's fonts and text layout are shared between threads


def names(data: JobData) -> list[str]:
    """Figures that can be drawn of the job as far as it has come, sorted."""
    return sorted(name for name, drawing in FIGURES.items() if drawing.applies(data))


def draw(data: JobData, name: str, form: Literal["png", "svg"]) -> bytes:
    """A figure as a file.

    Raises:
        UnknownFigure: the job has none of this name, or not yet.
    """
    known = names(data)
    if name not in known:
        raise UnknownFigure(name, known)
    file = io.BytesIO()
    with _one_at_a_time, matplotlib.rc_context({"svg.hashsalt": "retrograd"}):
        figure = FIGURES[name].draw(data)
        metadata = {"Date": None} if form == "svg" else {}  # the same results, the same bytes
        figure.savefig(file, format=form, dpi=150, metadata=metadata)
    return file.getvalue()
