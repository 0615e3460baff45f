"""Learnable hyperparameters: shape, transform, initial value. NumPy only, so the API can count and render them.

A learned hyperparameter is held *unconstrained* (log or logit of its value, float64) and descends there; its
*natural* value is what training uses and what a user downloads.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from core.spec import ClassifierProblem, JobSpec

UNITS = {
    "step_size": "weight per velocity",
    "momentum": "share of velocity kept per step",
    "init_scale": "standard deviation of initial weights",
    "l2": "loss per squared weight",
}


@dataclass(frozen=True)
class Group:
    """One leaf of the parameters: a layer's weights or a layer's biases."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elementary parameters."""
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class Layout:
    """How one hyperparameter is laid out. A `weight` axis runs through all groups, each flattened row by row."""

    name: str
    learn: bool
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    transform: str
    initial: float  # natural value

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    def initial_values(self) -> np.ndarray:
        """Unconstrained starting point, float64 of `shape`."""
        return np.full(self.shape, float(unconstrain(np.float64(self.initial), self.transform)))

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


def groups_of(problem: ClassifierProblem, num_features: int, num_classes: int) -> tuple[Group, ...]:
    """Parameter groups of a classifier, in the order of `jax.tree.leaves` of its parameters."""
    widths = (num_features, *problem.model.hidden, num_classes)
    groups: list[Group] = []
    for number, (fan_in, fan_out) in enumerate(pairwise(widths), start=1):
        groups += [
            Group(f"layer_{number}.weights", (fan_in, fan_out)),
            Group(f"layer_{number}.biases", (fan_out,)),
        ]
    return tuple(groups)


def layouts_of(spec: JobSpec, groups: tuple[Group, ...]) -> dict[str, Layout]:
    """Layout of every hyperparameter of a job, learned or not, by name."""
    sizes = {
        "step": spec.training.num_steps,
        "group": len(groups),
        "weight": sum(group.size for group in groups),
    }
    return {
        name: Layout(
            name=name,
            learn=hyper.learn,
            axes=tuple(hyper.per),
            shape=tuple(sizes[axis] for axis in hyper.per),
            transform=hyper.transform,
            initial=hyper.initial,
        )
        for name, hyper in ((name, getattr(spec.hyperparameters, name)) for name in UNITS)
    }


def count_learned(layouts: dict[str, Layout]) -> int:
    """How many numbers the outer problem has."""
    return sum(layout.size for layout in layouts.values() if layout.learn)
