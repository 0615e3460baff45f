"""Figures of what was learned."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from core.figures.canvas import (
    COLOURS,
    GUIDE,
    blank,
    from_zero,
    images,
    legend,
    name_curves,
    over_iterations,
    plain_log,
    square,
    title,
)
from core.figures.data import JobData, layer_of
from core.hyperparameters import AUGMENTATIONS, Group
from core.spec import MultitaskProblem

_SCHEDULES = ("step_size", "momentum", "b1", "b2", "decay", "epsilon", "weight_decay")
_MOST_PICTURES = 20
_MOST_LABELS = 60
_MOST_PATHS = 16

Walk = tuple[int, np.ndarray]  # meta-iteration, and weights in every step


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
        spoken, values = name.replace("_", " "), data.natural(name)
        if values.ndim == 1:
            row[0].plot(values, linewidth=1.2)
            row = row[:1]
        else:
            layers = list(dict.fromkeys(layer_of(group) for group in data.groups))
            for group, column in zip(data.groups, values.T, strict=True):
                number, kind = layers.index(layer_of(group)), int(group.name.endswith("biases"))
                row[kind].plot(column, label=layer_of(group), color=COLOURS[number % len(COLOURS)], linewidth=1.2)
                title(row[kind], f"{spoken}, {group.name.rpartition('.')[2]}")
        start = np.unique(data.layouts[name].start.values(data.layouts[name].shape))
        row[0].set_ylabel(spoken)
        for one in row:
            if len(start) == 1:
                one.axhline(start[0], color=GUIDE, linestyle=":", linewidth=1, label="start", zorder=1)
            one.locator_params(axis="y", nbins=5)
            from_zero(one)
    for one in axes[-1]:
        one.set_xlabel("step")
    name_curves(figure, *axes.flat)
    return figure


def has_init_scales(data: JobData) -> bool:
    return data.learns("init_scale") and data.layouts["init_scale"].axes == ("group",)


def init_scales(data: JobData) -> Figure:
    """Scale of the initial weights of each layer, over meta-iterations, beside 1/√(its inputs) (figure 3)."""
    figure, axes = blank()
    only, (iterations, each) = axes[0, 0], data.over_time("init_scale")
    weights = [(place, group) for place, group in enumerate(data.groups) if _is_weights(group)]
    for number, (place, group) in enumerate(weights):
        colour = COLOURS[number % len(COLOURS)]
        only.plot(iterations, each[:, place], color=colour, label=layer_of(group))
    for inputs in {_inputs_of(group) for _, group in weights}:
        only.axhline(1 / np.sqrt(inputs), color=GUIDE, linestyle="--", linewidth=1, zorder=1)
        only.annotate(
            f"1/√{inputs}", (0, 1 / np.sqrt(inputs)), (3, 3), textcoords="offset points", fontsize=8, color=GUIDE
        )
    only.set(xlabel="meta-iterations done", ylabel="standard deviation of initial weights", yscale="log")
    title(only, "dashed: 1/√(inputs of the layer)")
    plain_log(only.yaxis)
    over_iterations(only, only.get_lines()[: len(weights)])
    name_curves(figure, only)
    return figure


def _is_weights(group: Group) -> bool:
    """Of units with several inputs: not biases, nor those of norms."""
    return group.name.endswith("weights") and len(group.shape) > 1


def _inputs_of(group: Group) -> int:
    """Of one unit; of a convolution the pixels and channels that it looks at."""
    return int(np.prod(group.shape[:-1])) if len(group.shape) == 4 else group.shape[-2]


def _first_layer_pictures(data: JobData, name: str) -> np.ndarray:
    """Of the values for each weight: those of the first layer's weights, a picture for each unit."""
    inputs, units = data.groups[0].shape[-2:]
    return data.natural(name)[: inputs * units].reshape(inputs, units).T[:_MOST_PICTURES]


def _has_pictures(data: JobData, name: str) -> bool:
    return (
        data.learns(name)
        and (data.layouts[name].axes, len(data.groups[0].shape)) in ((("weight",), 2), (("shared_weight",), 3))
        and square(data.groups[0].shape[-2])
    )


def _units(data: JobData) -> list[str]:
    """Names of the first layer's units: classes where it is the last, else numbers from 1."""
    count = data.groups[0].shape[-1]
    return [f"class {unit}" if len(data.groups) == 2 else str(unit + 1) for unit in range(count)]


def _height(pictures: np.ndarray) -> float:
    return 3.0 if len(pictures) <= _MOST_PICTURES / 2 else 5.6


def has_penalties(data: JobData) -> bool:
    return _has_pictures(data, "l2")


def penalties(data: JobData) -> Figure:
    """The L2 penalty of each weight of the first layer, a picture for each unit (figure 8)."""
    pictures = _first_layer_pictures(data, "l2")
    figure, axes = blank(width=7.4, height=_height(pictures))
    images(figure, axes[0, 0], pictures, "penalty λ", names=_units(data), log=True)
    return figure


def has_initial_weights(data: JobData) -> bool:
    return _has_pictures(data, "initial_weights")


def initial_weights(data: JobData) -> Figure:
    """The learned initial weights of the first layer, a picture for each unit."""
    pictures = _first_layer_pictures(data, "initial_weights")
    figure, axes = blank(width=7.4, height=_height(pictures))
    images(figure, axes[0, 0], pictures, "initial weight", names=_units(data))
    return figure


def has_inputs(data: JobData) -> bool:
    return data.learns("inputs") and square(data.layouts["inputs"].shape[1])


def inputs(data: JobData) -> Figure:
    """Learned training examples (figure 9)."""
    pictures = data.natural("inputs")[:_MOST_PICTURES]
    figure, axes = blank(width=7.4, height=_height(pictures))
    classes = data.groups[-1].shape[-1]
    names = [f"class {number % classes}" for number in range(len(pictures))]
    images(figure, axes[0, 0], pictures, "pixel − mean of the training images", names=names)
    return figure


def has_labels(data: JobData) -> bool:
    return data.learns("labels") and "given_labels" in data.measured


def labels(data: JobData) -> Figure:
    """Learned soft labels of the first examples, beside the labels that they were given."""
    shown = slice(_MOST_LABELS)
    confidence = data.spec.hyperparameters.labels.confidence if data.spec.hyperparameters.labels else 0.0
    given = data.measured["given_labels"][shown].astype(int)
    logits = data.natural("labels")[shown] + confidence * np.eye(data.groups[-1].shape[-1])[given]
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    figure, axes = blank(width=9, height=3.2)
    only = axes[0, 0]
    image = only.imshow(shares.T, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="none")
    numbers = np.arange(len(given))
    only.plot(numbers, given, "o", color=COLOURS[1], markerfacecolor="none", markersize=7, label="given label")
    if "true_labels" in data.measured:
        true = data.measured["true_labels"][shown].astype(int)
        wrong = true != given
        only.plot(numbers[wrong], true[wrong], "x", color=COLOURS[4], markersize=6, label="true label, if another")
    only.set(xlabel="training example", ylabel="class", yticks=range(shares.shape[1]))
    only.grid(False)
    legend(only, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
    figure.colorbar(image, ax=only, label="share of the learned label")
    return figure


def has_example_weights(data: JobData) -> bool:
    return data.learns("example_weights")


def example_weights(data: JobData) -> Figure:
    """How much examples count, of clean and of corrupted labels."""
    figure, axes = blank()
    only, found = axes[0, 0], data.natural("example_weights")
    corrupted = data.measured.get("corrupted_labels", np.zeros(len(found))) > 0
    parts = {"clean label": found[~corrupted], "corrupted label": found[corrupted]}
    parts = {name: weights for name, weights in parts.items() if len(weights)}
    only.hist(
        list(parts.values()),
        np.linspace(0, max(1.0, float(found.max())), 21),
        weights=[np.full(len(weights), 100 / len(weights)) for weights in parts.values()],
        label=[f"{name} ({len(weights)} examples)" for name, weights in parts.items()],
        color=COLOURS[: len(parts)],
    )
    only.set(xlabel="learned weight", ylabel="% of these examples")
    if corrupted.any():
        low = {name: f"{np.mean(weights < 0.5):.0%} of {name}s" for name, weights in parts.items()}
        title(only, f"below 0.5: {' and '.join(low.values())}")
    legend(only, loc="upper center")
    return figure


def has_augmentation(data: JobData) -> bool:
    return data.learns("augmentation")


def augmentation(data: JobData) -> Figure:
    """How far images are moved, over meta-iterations."""
    figure, axes = blank(1, 3, width=9.5, height=2.8)
    iterations, each = data.over_time("augmentation")
    units = ("pixels", "degrees", "pixel value")
    for one, name, unit, column in zip(axes[0], AUGMENTATIONS, units, each.T, strict=True):
        over_iterations(one, one.plot(iterations, column))
        one.set(xlabel="meta-iterations done", ylabel=f"standard deviation, {unit}", ylim=(0, None))
        title(one, name)
    return figure


def has_task_mixing(data: JobData) -> bool:
    return data.learns("task_mixing")


def task_mixing(data: JobData) -> Figure:
    """How much tasks share in each layer: correlations of T Tᵀ."""
    found = data.natural("task_mixing")
    figure, axes = blank(1, len(found), width=3 * len(found) + 1.8, height=4.8, sharey=True)
    names, numbers = _tasks(data), np.arange(found.shape[-1])
    for number, (one, mixing) in enumerate(zip(axes[0], found, strict=True), start=1):
        covariance = mixing @ mixing.T
        deviations = np.sqrt(np.diag(covariance))
        shown = one.imshow(covariance / np.outer(deviations, deviations), cmap="RdBu_r", vmin=-1, vmax=1)
        title(one, f"layer {number}")
        one.set_xticks(numbers, names, rotation=90, fontsize=8)
        one.set_yticks(numbers, names, fontsize=8)
        one.grid(False)
    bar = figure.colorbar(shown, ax=axes[0], shrink=0.6)
    bar.set_label("correlation of weights", fontsize=9)
    return figure


def _tasks(data: JobData) -> list[str]:
    problem = data.spec.problem
    assert isinstance(problem, MultitaskProblem)  # noqa: S101 - for the type checker
    names = [name.replace("_", " ") for name in problem.dataset.alphabets]
    return names + ([f"{name}, turned" for name in names] if problem.dataset.rotated else [])


def _first_and_last(walked: list[Walk]) -> list[Walk]:
    """As many as a legend can tell apart."""
    few = _MOST_PATHS // 2
    return walked if len(walked) <= _MOST_PATHS else walked[:few] + walked[-few:]


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
    ends = {row.iteration: row.outer for row in data.rows}
    for iteration, weights in _first_and_last(walked):
        name = f"meta-iteration {iteration + 1}: ends at {ends[iteration]:.4g}"
        axes[0, 0].plot(*weights.T, marker="o", markersize=2.5, linewidth=1, label=name)
    axes[0, 0].plot(*walked[0][1][0], marker="*", markersize=12, color="black")
    axes[0, 0].set(xlabel="weight 1", ylabel="weight 2")
    legend(axes[0, 0], loc="lower right")
    return figure
