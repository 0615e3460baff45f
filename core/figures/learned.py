"""Figures of what was learned."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from core.figures.canvas import COLOURS, blank, images, legend, square
from core.figures.data import JobData
from core.hyperparameters import AUGMENTATIONS

_SCHEDULES = ("step_size", "momentum", "b1", "b2", "decay", "epsilon", "weight_decay")
_MOST_PICTURES = 20


def _scheduled(data: JobData) -> list[str]:
    return [name for name in _SCHEDULES if data.learns(name) and "step" in data.layouts[name].axes]


def has_schedules(data: JobData) -> bool:
    return bool(_scheduled(data))


def schedules(data: JobData) -> Figure:
    """Learned schedules, a row each: of weights on the left, of biases on the right (Maclaurin et al., figure 2)."""
    names = _scheduled(data)
    by_group = any("group" in data.layouts[name].axes for name in names)
    figure, axes = blank(len(names), 2 if by_group else 1, width=9.5 if by_group else 6.4, height=2.6, sharex=True)
    for row, name in zip(axes, names, strict=True):
        values = data.natural(name)
        if values.ndim == 1:
            row[0].plot(values)
        else:
            for number, (group, column) in enumerate(zip(data.groups, values.T, strict=True)):
                kind = number % 2 if by_group else 0
                row[kind].plot(column, label=f"layer {number // 2 + 1}", color=COLOURS[number // 2 % len(COLOURS)])
                row[kind].set_title(f"{name.replace('_', ' ')}: {group.name.rpartition('.')[2]}", fontsize=9)
        row[0].set_ylabel(name.replace("_", " "))
        for one in row:
            one.set_ylim(bottom=0)
    for one in axes[-1]:
        one.set_xlabel("step")
    legend(axes[0, 0])
    return figure


def has_init_scales(data: JobData) -> bool:
    return data.learns("init_scale") and data.layouts["init_scale"].axes == ("group",)


def init_scales(data: JobData) -> Figure:
    """Scale of the initial weights of each layer, over meta-iterations, beside 1/√(its inputs)."""
    figure, axes = blank()
    iterations, each = data.over_time("init_scale")
    for number, group in enumerate(data.groups[::2]):
        colour = COLOURS[number % len(COLOURS)]
        axes[0, 0].plot(iterations, each[:, 2 * number], color=colour, label=f"layer {number + 1}")
        axes[0, 0].axhline(1 / np.sqrt(group.shape[-2]), color=colour, linestyle="--", linewidth=1)
    axes[0, 0].set(xlabel="meta-iteration", ylabel="standard deviation of initial weights", yscale="log")
    axes[0, 0].set_title("dashed: 1/√(inputs of the layer)", fontsize=9)
    legend(axes[0, 0])
    return figure


def _first_layer_pictures(data: JobData, name: str) -> np.ndarray:
    """Of the values for each weight: those of the first layer's weights, a picture for each unit."""
    inputs, units = data.groups[0].shape
    return data.natural(name)[: inputs * units].reshape(inputs, units).T[:_MOST_PICTURES]


def _has_pictures(data: JobData, name: str) -> bool:
    return (
        data.learns(name)
        and data.layouts[name].axes == ("weight",)
        and len(data.groups[0].shape) == 2
        and square(data.groups[0].shape[0])
    )


def has_penalties(data: JobData) -> bool:
    return _has_pictures(data, "l2")


def penalties(data: JobData) -> Figure:
    """The L2 penalty of each weight of the first layer, a picture for each unit (figure 8)."""
    figure, axes = blank(width=7, height=3.2)
    images(figure, axes[0, 0], _first_layer_pictures(data, "l2"), "λ")
    return figure


def has_initial_weights(data: JobData) -> bool:
    return _has_pictures(data, "initial_weights")


def initial_weights(data: JobData) -> Figure:
    """The learned initial weights of the first layer, a picture for each unit."""
    figure, axes = blank(width=7, height=3.2)
    images(figure, axes[0, 0], _first_layer_pictures(data, "initial_weights"), "w₀")
    return figure


def has_inputs(data: JobData) -> bool:
    return data.learns("inputs") and square(data.layouts["inputs"].shape[1])


def inputs(data: JobData) -> Figure:
    """Learned training examples (figure 9)."""
    figure, axes = blank(width=7, height=3.2)
    images(figure, axes[0, 0], data.natural("inputs")[:_MOST_PICTURES], "pixel, mean taken off")
    return figure


def has_labels(data: JobData) -> bool:
    return data.learns("labels")


def labels(data: JobData) -> Figure:
    """What was added to the logits of the labels, for the first examples."""
    figure, axes = blank(width=7)
    found = data.natural("labels")[:100]
    largest = float(np.abs(found).max()) or 1.0
    shown = axes[0, 0].imshow(
        found.T, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto", interpolation="none"
    )
    axes[0, 0].set(xlabel="training example", ylabel="class")
    axes[0, 0].grid(False)
    figure.colorbar(shown, ax=axes[0, 0], label="added to the logit")
    return figure


def has_example_weights(data: JobData) -> bool:
    return data.learns("example_weights")


def example_weights(data: JobData) -> Figure:
    """How much examples count, of clean and of corrupted labels."""
    figure, axes = blank()
    found = data.natural("example_weights")
    corrupted = data.measured.get("corrupted_labels", np.zeros(len(found))) > 0
    bins = np.linspace(0, max(1.0, float(found.max())), 41)
    axes[0, 0].hist(found[~corrupted], bins, alpha=0.7, label="clean label")
    if corrupted.any():
        axes[0, 0].hist(found[corrupted], bins, alpha=0.7, label="corrupted label")
    axes[0, 0].set(xlabel="learned weight", ylabel="examples")
    legend(axes[0, 0])
    return figure


def has_augmentation(data: JobData) -> bool:
    return data.learns("augmentation")


def augmentation(data: JobData) -> Figure:
    """How far images are moved, over meta-iterations."""
    figure, axes = blank(1, 3, width=9.5, height=2.8)
    iterations, each = data.over_time("augmentation")
    for one, name, unit, column in zip(
        axes[0], AUGMENTATIONS, ("pixels", "degrees", "pixel value"), each.T, strict=True
    ):
        one.plot(iterations, column)
        one.set(xlabel="meta-iteration", ylabel=unit, title=name, ylim=(0, None))
    return figure


def has_task_mixing(data: JobData) -> bool:
    return data.learns("task_mixing")


def task_mixing(data: JobData) -> Figure:
    """How much tasks share in each layer: correlations of T Tᵀ."""
    found = data.natural("task_mixing")
    figure, axes = blank(1, len(found), width=3.2 * len(found), height=3.4)
    for number, (one, mixing) in enumerate(zip(axes[0], found, strict=True), start=1):
        covariance = mixing @ mixing.T
        deviations = np.sqrt(np.diag(covariance))
        shown = one.imshow(covariance / np.outer(deviations, deviations), cmap="RdBu_r", vmin=-1, vmax=1)
        one.set_title(f"layer {number}", fontsize=9)
        one.set(xlabel="task", ylabel="task")
        one.grid(False)
    figure.colorbar(shown, ax=axes[0], shrink=0.8, label="correlation of weights")
    return figure


def has_path(data: JobData) -> bool:
    return bool(data.diagnosed("path"))


def path(data: JobData) -> Figure:
    """Training on the toy problem, at each meta-iteration (figure 1)."""
    from core.figures.valley import valley

    figure, axes = blank(width=5.5, height=4.8)
    walked = [(iteration, np.array(found["weights"], float)) for iteration, found in data.diagnosed("path")]
    everything = np.concatenate([weights for _, weights in walked])
    low, high = np.nanmin(everything, axis=0), np.nanmax(everything, axis=0)
    margin = 0.15 * (high - low).max() + 0.1
    grid = [np.linspace(start - margin, stop + margin, 200) for start, stop in zip(low, high, strict=True)]
    x, y = np.meshgrid(*grid)
    axes[0, 0].contour(x, y, valley(x, y), levels=25, colors="#bbbbbb", linewidths=0.6)
    for iteration, weights in walked:
        axes[0, 0].plot(*weights.T, marker="o", markersize=2.5, linewidth=1, label=f"meta-iteration {iteration}")
    axes[0, 0].plot(*walked[0][1][0], marker="*", markersize=12, color="black")
    axes[0, 0].set(xlabel="weight 1", ylabel="weight 2")
    legend(axes[0, 0])
    return figure
