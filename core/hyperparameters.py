"""Learnable hyperparameters: shape, transform, start. NumPy only, so the API can count and render them.

A learned hyperparameter is held *unconstrained* (log or logit of its value, float64) and descends there; its
*natural* value is what training uses and what a user downloads.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from core.spec import (
    CNN,
    Augmentation,
    ExampleWeights,
    Hyperparameter,
    InitialWeights,
    Inputs,
    JobSpec,
    LabelledProblem,
    Labels,
    MultitaskProblem,
    OwnProblem,
    PluginProblem,
    Problem,
    Scheduled,
    TaskMixing,
    ToyProblem,
    Transformer,
)
from core.starts import Constant, Exactly, InProblem, Listed, Noise, Sharing, Start

UNITS = {
    "step_size": "weight per velocity",
    "momentum": "share of velocity kept per step",
    "b1": "share of first moment kept per step",
    "b2": "share of second moment kept per step",
    "decay": "share of mean square kept per step",
    "epsilon": "gradient",
    "weight_decay": "share of weight lost per step size",
    "init_scale": "standard deviation of initial weights",
    "l2": "loss per squared weight",
    "inputs": "pixel, as the data are scaled",
    "labels": "logit added to that of the given labels",
    "example_weights": "share of an example's loss",
    "augmentation": "standard deviation: pixels, degrees, pixel value",
    "task_mixing": "weight per latent weight",
    "initial_weights": "weight",
}
AUGMENTATIONS = ("shift", "rotation", "noise")


@dataclass(frozen=True)
class Group:
    """One leaf of the parameters: a layer's weights or a layer's biases; in multitask problems of all tasks."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elementary parameters."""
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class Layout:
    """How one hyperparameter is laid out. A `weight` axis runs through all groups, each flattened row by row; a `unit`
    axis through the units of all layers, and a `shared_weight` axis through the weights of one of several tasks. What
    the axes of a problem of one's own mean is its own affair: they are numbered.
    """

    name: str
    learn: bool
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    transform: str
    start: Start  # natural values
    outer_penalty: float = 0.0
    unit: str = ""  # of natural values; unknown of a problem of one's own

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    def initial_values(self) -> np.ndarray:
        """Unconstrained starting point, float64 of `shape`."""
        return np.asarray(unconstrain(self.start.values(self.shape), self.transform), np.float64)

    def natural(self, unconstrained: Any, xp: Any = np) -> Any:
        """Values that training uses. `xp` is numpy or jax.numpy."""
        return constrain(unconstrained, self.transform, xp)


def constrain(unconstrained: Any, transform: str, xp: Any = np) -> Any:
    """Natural value of an unconstrained one: exp, logistic, or itself."""
    if transform == "log":
        return xp.exp(unconstrained)
    if transform == "logit":
        return 1 / (1 + xp.exp(-unconstrained))
    return unconstrained


def unconstrain(natural: Any, transform: str) -> Any:
    """Inverse of `constrain`."""
    if transform == "log":
        return np.log(natural)
    if transform == "logit":
        return np.log(natural) - np.log1p(-natural)
    return natural


def groups_of(problem: Problem, num_features: int, num_classes: int) -> tuple[Group, ...]:
    """Parameter groups of a problem whose model is affine layers in a row, in the order of `jax.tree.leaves` of its
    parameters; `core.architectures` has those of other models.
    """
    if isinstance(problem, ToyProblem):
        return (Group("weights", (2,)),)
    if isinstance(problem, OwnProblem):
        raise TypeError(f"a {problem.kind} says itself which parameters it has")
    if isinstance(problem.model, CNN | Transformer):
        raise TypeError(f"a {problem.model.kind} has other groups, which follow from more than two sizes")
    tasks = (problem.dataset.num_tasks,) if isinstance(problem, MultitaskProblem) else ()
    widths = (num_features, *problem.model.hidden, num_classes)
    groups: list[Group] = []
    for number, (fan_in, fan_out) in enumerate(pairwise(widths), start=1):
        groups += [
            Group(f"layer_{number}.weights", (*tasks, fan_in, fan_out)),
            Group(f"layer_{number}.biases", (*tasks, fan_out)),
        ]
    return tuple(groups)


def layouts_of(spec: JobSpec, groups: tuple[Group, ...]) -> dict[str, Layout]:
    """Layout of every hyperparameter of a job, learned or not, by name.

    Those of a problem of one's own have the shapes that its job was given when it was created.
    """
    problem = spec.problem
    if isinstance(problem, OwnProblem):
        return {name: _own_layout(problem, name, shape) for name, shape in (problem.shapes or {}).items()}
    lengths = {
        "step": spec.training.num_steps,
        "group": len(groups),
        "layer": len(groups) // 2,
        "unit": sum(units_of(groups)),
        "weight": sum(group.size for group in groups),
        "shared_weight": sum(group.size // group.shape[0] for group in groups),
        "example": problem.num_training_examples if isinstance(problem, LabelledProblem) else 0,
        "feature": groups[0].shape[0],
        "class": groups[-1].shape[-1],
        "move": len(AUGMENTATIONS),
        "task": problem.dataset.num_tasks if isinstance(problem, MultitaskProblem) else 0,
    }
    axes = _AXES | ({"initial_weights": ("shared_weight",)} if isinstance(problem, MultitaskProblem) else {})
    return {
        name: _layout(name, hyper, hyper.per if isinstance(hyper, Scheduled) else axes[name], lengths)
        for name, hyper in spec.used.items()
    }


def layers_of(groups: tuple[Group, ...]) -> tuple[int, ...]:
    """How many groups each layer has, in order: weights and biases, or weights alone."""
    return tuple(len(list(layer)) for _, layer in groupby(groups, key=lambda group: group.name.rpartition(".")[0]))


def units_of(groups: tuple[Group, ...]) -> tuple[int, ...]:
    """Units of each layer: what its weights and biases lead to."""
    ends = np.cumsum(layers_of(groups))
    return tuple(groups[end - 1].shape[-1] for end in ends)


def _layout(name: str, hyper: Hyperparameter, axes: tuple[str, ...], lengths: dict[str, int]) -> Layout:
    return Layout(
        name=name,
        learn=hyper.learn,
        axes=tuple(axes),
        shape=tuple(lengths[axis] for axis in axes),
        transform=hyper.transform,
        start=_start(hyper),
        outer_penalty=hyper.outer_penalty,
        unit=UNITS[name],
    )


def _own_layout(problem: OwnProblem, name: str, shape: tuple[int, ...]) -> Layout:
    match problem.initial.get(name):
        case None:
            start: Start = InProblem("installed" if isinstance(problem, PluginProblem) else "exported")
        case float(value):
            start = Constant(value)  # not written out: a problem may have more of them than there is memory
        case values:
            start = Exactly.of(values)
    return Layout(
        name=name,
        learn=problem.learns(name),
        axes=tuple(f"axis_{number}" for number in range(len(shape))),
        shape=shape,
        transform="identity",
        start=start,
    )


_AXES = {
    "inputs": ("example", "feature"),
    "labels": ("example", "class"),
    "example_weights": ("example",),
    "augmentation": ("move",),
    "task_mixing": ("layer", "task", "task"),
    "initial_weights": ("weight",),
}


def _start(hyper: Hyperparameter) -> Start:
    if isinstance(hyper, Inputs):
        return Noise(hyper.initial, hyper.noise)
    if isinstance(hyper, InitialWeights):
        return Noise(0.0, hyper.scale)
    if isinstance(hyper, Augmentation):
        return Listed(tuple(getattr(hyper, name) for name in AUGMENTATIONS))
    if isinstance(hyper, TaskMixing):
        return Sharing(hyper.sharing)
    if isinstance(hyper, Scheduled | Labels | ExampleWeights):
        return Constant(hyper.initial)
    raise TypeError(f"nothing says where {type(hyper).__name__} starts")


def count_learned(layouts: dict[str, Layout]) -> int:
    """How many numbers the outer problem has."""
    return sum(layout.size for layout in layouts.values() if layout.learn)
