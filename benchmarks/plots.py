"""Draw what was measured: `benchmarks/results/*.json` → `docs/reference/*.svg`.

python -m benchmarks.plots
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.measure import RESULTS
from benchmarks.rivals import RECURSIVE, SCAN, SQRT
from benchmarks.scaling import REVERSIBLE

PAGES = Path(__file__).parents[1] / "docs" / "reference"
OURS, OTHERS = "#0b6e4f", "#9aa5b1"
MEMORY = [REVERSIBLE, SQRT, RECURSIVE, SCAN]


def draw_engines(found: dict[str, Any]) -> None:
    """Time and memory of every method, for SGD and for Adam."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 6), layout="constrained")
    for row, table in zip(axes, found["tables"], strict=True):
        names = [name for name in table["ratio"] if not name.startswith("plain training")]
        names.sort(key=lambda name: -table["ratio"][name])
        colors = [OURS if name.startswith("reversible") else OTHERS for name in names]
        what = f"{table['optimizer']}, T = {table['steps']}"
        draw_bars(
            row[0],
            names,
            [table["ratio"][name] for name in names],
            colors,
            f"{what}: time ÷ plain training",
            "{:.2f}×",
        )
        megabytes = [table["peak_rise_bytes"][name] / 1e6 for name in names]
        draw_bars(row[1], names, megabytes, colors, f"{what}: peak resident memory, MB (log)", "{:.0f} MB")
        row[1].set_xscale("log")
        row[1].set_yticklabels([])
    save(figure, "engines.svg")


def draw_bars(axis: Any, names: list[str], values: list[float], colors: list[str], title: str, label: str) -> None:
    """Horizontal bars with their values."""
    bars = axis.barh(names, values, color=colors)
    axis.bar_label(bars, [label.format(value) for value in values], padding=3, fontsize=8)
    axis.set_title(title, fontsize=10, loc="left")
    axis.margins(x=0.18)
    axis.spines[["top", "right"]].set_visible(False)


def draw_scaling(rows: list[dict[str, Any]]) -> None:
    """Memory over steps and parameters; time over parameters and batch; bits over momentum."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
    varied = {
        what: [row for row in rows if row["varied"] == what] for what in ("steps", "width", "momentum", "batch")
    }
    for axis, what, x in ((axes[0, 0], "steps", "steps"), (axes[0, 1], "width", "parameters")):
        for name in MEMORY:
            values = [row["working_bytes"][name] / 1e6 for row in varied[what]]
            axis.loglog(
                [row[x] for row in varied[what]],
                values,
                "o-",
                label=name,
                color=OURS if name == REVERSIBLE else None,
            )
        axis.set(xlabel=x, ylabel="working memory, MB")
        axis.legend(fontsize=7)
    for what, x in (("width", "parameters"), ("batch", "value")):
        ratios = [row["ratio"][REVERSIBLE] for row in varied[what]]
        axes[1, 0].semilogx(
            [row[x] for row in varied[what]],
            ratios,
            "o-",
            label=f"over {'parameters' if x == 'parameters' else what}",
        )
    axes[1, 0].set(xlabel="parameters, or batch", ylabel="reversible ÷ plain training", ylim=(0, None))
    axes[1, 0].legend(fontsize=7)
    momenta = varied["momentum"]
    axes[1, 1].loglog(
        [row["bound_bits_per_param_step"] for row in momenta],
        [row["stored_bits_per_param_step"] for row in momenta],
        "o",
        color=OURS,
    )
    ends = [momenta[-1]["bound_bits_per_param_step"], momenta[0]["bound_bits_per_param_step"]]
    axes[1, 1].loglog(ends, ends, "-", color=OTHERS)
    axes[1, 1].set(xlabel="log2(1/γ)", ylabel="stored bits per parameter and step")
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    save(figure, "scaling.svg")


def save(figure: Any, name: str) -> None:
    """As SVG whose text stays text, the same bytes for the same figures."""
    PAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(PAGES / name, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Draw what there is."""
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "retrograd"})
    for name, draw in {"engines": draw_engines, "scaling": draw_scaling}.items():
        file = RESULTS / f"{name}.json"
        if file.exists():
            draw(json.loads(file.read_text()))


if __name__ == "__main__":
    main()
