"""Figures of what was measured: losses, hypergradients, chaos, memory."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from core.figures.canvas import (
    COLOURS,
    GUIDE,
    blank,
    from_zero,
    legend,
    name_curves,
    over_iterations,
    plain_log,
    title,
)
from core.figures.data import JobData, layer_of

_WIDE = 20.0  # times that a curve may fall before its axis is logarithmic
_MARKED_POINTS = 12  # curves through fewer show them


def has_losses(data: JobData) -> bool:
    return data.spec.kind == "learn" and len(data.rows) > 0


def losses(data: JobData) -> Figure:
    """Meta-learning curve: what overfits shows where train, valid and test part."""
    figure, axes = blank()
    only, iterations = axes[0, 0], [row.iteration for row in data.rows]
    curves = {
        part: np.array([getattr(row, part) for row in data.rows], float) for part in ("train", "valid", "test")
    }
    if all(np.array_equal(curve, curves["train"], equal_nan=True) for curve in curves.values()):
        curves = {"loss": curves["train"]}  # a problem with but one
    if not any(np.isfinite(curve).any() for curve in curves.values()):  # of a problem of one's own
        curves = {"outer loss": np.array([row.outer for row in data.rows], float)}
    for part, curve in curves.items():
        if np.isfinite(curve).any():
            only.plot(iterations, curve, label=part)
    only.set(xlabel="meta-iterations done", ylabel="loss after training")
    if "corrupted_labels" in data.measured:
        title(only, "train: by the labels as they are given, the corrupted ones too")
    over_iterations(only, only.get_lines())
    from_zero(only)
    name_curves(figure, only)
    return figure


def has_learning_curves(data: JobData) -> bool:
    return "learning_curve.initial" in data.measured


def learning_curves(data: JobData) -> Figure:
    """Inner loss in every step of training, before and after."""
    figure, axes = blank()
    for which in ("initial", "best"):
        axes[0, 0].plot(data.measured[f"learning_curve.{which}"], label=which, linewidth=1.2)
    axes[0, 0].set(xlabel="step", ylabel="inner loss, as trained on")
    title(axes[0, 0], "training with the initial and with the best hyperparameters")
    everything = np.concatenate([curve.get_ydata() for curve in axes[0, 0].get_lines()])
    if np.nanmax(everything) > _WIDE * np.nanmin(everything) > 0:
        axes[0, 0].set_yscale("log")
        plain_log(axes[0, 0].yaxis)
    else:
        from_zero(axes[0, 0])
    name_curves(figure, axes[0, 0])
    return figure


def has_search(data: JobData) -> bool:
    return len(data.trials) > 0


def search(data: JobData) -> Figure:
    """Trials of the search before the descent, and the best so far."""
    figure, axes = blank()
    found = np.array([np.nan if trial.outer_loss is None else trial.outer_loss for trial in data.trials])
    axes[0, 0].plot(found, "o", markersize=3, label="trial")
    axes[0, 0].plot(np.fmin.accumulate(found), label="best so far", drawstyle="steps-post")
    axes[0, 0].set(xlabel="trial", ylabel="outer loss", yscale="log")
    plain_log(axes[0, 0].yaxis)
    if missing := int(np.isnan(found).sum()):
        title(axes[0, 0], f"{missing} of {len(found)} trials diverged and are not shown")
    legend(axes[0, 0])
    return figure


def _over_time(data: JobData) -> list[str]:
    return [
        name
        for name, layout in data.layouts.items()
        if f"hypergradient.{name}.mean" in data.measured and "step" in layout.axes
    ]


def has_hypergradients(data: JobData) -> bool:
    return bool(_over_time(data))


def hypergradients(data: JobData) -> Figure:
    """Mean hypergradient of each schedule over training, with the standard error over seeds (figure 5)."""
    names = _over_time(data)
    figure, axes = blank(len(names), 1, height=3, sharex=True)
    for one, name in zip(axes[:, 0], names, strict=True):
        mean = data.measured[f"hypergradient.{name}.mean"]
        error = data.measured[f"hypergradient.{name}.standard_deviation"] / np.sqrt(len(data.rows))
        shown = {"all": 0}
        if mean.ndim > 1:
            groups = enumerate(data.groups)
            shown = {layer_of(group): place for place, group in groups if not group.name.endswith("biases")}
        for number, (layer, place) in enumerate(shown.items()):
            column, spread = (array.reshape(len(array), -1)[:, place] for array in (mean, error))
            colour = COLOURS[number % len(COLOURS)]
            one.plot(column, color=colour, label=layer, linewidth=1.2)
            one.fill_between(
                range(len(column)), column - spread, column + spread, color=colour, alpha=0.2, linewidth=0
            )
        one.axhline(0, color=GUIDE, linewidth=0.8, zorder=1)
        one.set_ylabel(f"d outer loss / d {_learned_as(data, name)}", fontsize=9)
    title(axes[0, 0], f"weights; mean and standard error of {len(data.rows)} seeds")
    axes[-1, 0].set_xlabel("step")
    name_curves(figure, *axes[:, 0])
    return figure


def has_scan(data: JobData) -> bool:
    return data.spec.scan is not None and len(data.rows) > 1


def scan(data: JobData) -> Figure:
    """Loss and its derivative along the scanned hyperparameter (figure 11)."""
    assert data.spec.scan is not None  # noqa: S101 - for the type checker
    name = data.spec.scan.hyperparameter
    points = np.array([row.diagnostics["scan"]["value"] for row in data.rows])
    derivatives = np.array(
        [np.nan if (one := row.diagnostics["scan"]["derivative"]) is None else one for row in data.rows]
    )
    marks = {"marker": "o", "markersize": 4} if len(points) <= _MARKED_POINTS else {}
    figure, axes = blank(2, 1, height=2.6, sharex=True)
    axes[0, 0].plot(points, [row.outer for row in data.rows], linewidth=1, **marks)
    axes[0, 0].set(ylabel="outer loss", yscale="log")
    plain_log(axes[0, 0].yaxis)
    axes[1, 0].plot(points, derivatives, linewidth=1, **marks)
    if (sizes := np.abs(derivatives[np.isfinite(derivatives)])).size and sizes.max() > 100 * np.median(sizes) > 0:
        axes[1, 0].set_yscale("symlog", linthresh=float(f"{np.median(sizes):.0e}"))
    axes[1, 0].axhline(0, color="black", linewidth=0.6)
    axes[1, 0].set_xlabel(_learned_as(data, name))
    axes[1, 0].set_ylabel(f"d loss / d {_learned_as(data, name)}", fontsize=9)
    return figure


def has_stored_bits(data: JobData) -> bool:
    return data.spec.scan is not None and data.spec.scan.hyperparameter == "momentum" and len(data.rows) > 0


def stored_bits(data: JobData) -> Figure:
    """What running backward has to store, beside the least possible."""
    figure, axes = blank()
    layout = data.layouts["momentum"]
    every = [(float(layout.natural(row.diagnostics["scan"]["value"])), row.certificate) for row in data.rows]
    shown = [(decay, proof) for decay, proof in every if 0 < decay < 1]  # others have no logit
    decays = np.array([decay for decay, _ in shown])
    stored = [proof.get("stored_bits_per_param_step") for _, proof in shown]
    axes[0, 0].plot(decays, -np.log2(decays), label="least possible, log₂(1/γ)", color=GUIDE, zorder=1)
    axes[0, 0].plot(decays, stored, "o", label="stored", color=COLOURS[1])
    axes[0, 0].set(xscale="logit", yscale="log")
    axes[0, 0].set_xticks(decays, [f"{decay:.4g}" for decay in decays])
    axes[0, 0].set_xticks([], minor=True)
    axes[0, 0].set(xlabel="momentum decay γ", ylabel="bits per parameter and step")
    for decay, bits in zip(decays, stored, strict=True):
        if bits:
            place = {"xytext": (7, 3), "textcoords": "offset points", "fontsize": 8}
            axes[0, 0].annotate(f"{bits:.3g} ({32 / bits:,.0f} ×)", (decay, bits), **place)
    axes[0, 0].margins(x=0.15)
    title(axes[0, 0], "in brackets: how many times less than the 32 bits of a float")
    plain_log(axes[0, 0].yaxis)
    legend(axes[0, 0], loc="lower left")
    return figure


def has_naive_reversal(data: JobData) -> bool:
    return bool(data.diagnosed("naive_reversal"))


def naive_reversal(data: JobData) -> Figure:
    """How far reversal in ordinary floats strays; the exact one misses by 0 bits."""
    figure, axes = blank()
    iteration, found = data.diagnosed("naive_reversal")[-1]
    distances = np.array([np.nan if one is None else one for one in found["distances"]], float)
    missed = next(row for row in data.rows if row.iteration == iteration).certificate.get("mismatched_bits")
    only, steps = axes[0, 0], np.array(found["steps"])
    only.plot(steps, np.where(distances > 0, distances, np.nan), label="in ordinary floats")
    only.axhline(1, color=GUIDE, linestyle="--", linewidth=1, zorder=1)
    only.annotate("as far off as 0", (steps.max(), 1), (2, 3), textcoords="offset points", fontsize=8, color=GUIDE)
    only.set(xlabel="step that is recovered, from the last to the first", yscale="log")
    only.set_ylabel("‖w recovered − w‖ / ‖w‖")
    title(only, f"reversal in ordinary floats; by exact reversal {missed or 0} bits of the start differ")
    only.invert_xaxis()
    return figure


def has_adjoint_growth(data: JobData) -> bool:
    return bool(data.diagnosed("adjoint_growth"))


def adjoint_growth(data: JobData) -> Figure:
    """Norm of the outer loss's derivative on its way back through training."""
    figure, axes = blank()
    for iteration, found in data.diagnosed("adjoint_growth")[-8:]:
        norms = [np.nan if one is None else one for one in found["norms"]]
        axes[0, 0].plot(found["steps"], norms, label=f"meta-iteration {iteration + 1}")
    axes[0, 0].set(xlabel="step", ylabel="norm of the adjoint of the weights", yscale="log")
    legend(axes[0, 0])
    return figure


def _learned_as(data: JobData, name: str) -> str:
    transform = data.layouts[name].transform
    spoken = name.replace("_", " ")
    return spoken if transform == "identity" else f"{transform} {spoken}"
