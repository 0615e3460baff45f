"""What is differentiated: an inner problem that training solves, and an outer loss of where training ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import jax
from jax.tree_util import Partial

Params: TypeAlias = Any
Hyper: TypeAlias = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Problem:
    """An inner and an outer problem, as pure functions.

    Attributes:
        init: (hyper, key) → initial elementary parameters, a pytree of float32 or float64 arrays. Its leaves, in
            the order of `jax.tree.leaves`, are the groups; their dtype is the one gradients are computed in.
        inner_loss: (params, hyper, step, key) → the scalar that training step `step` descends on. The key is the
            run's key folded with the step. Must be deterministic: same arguments, same bits.
        outer_loss: (params, hyper, key) → the scalar to be differentiated, at the end of training.
        schedule: hyper → {name: values} for the optimizer's hyperparameters; each a scalar, [T], [T, groups], or a
            pytree like the parameters.

    Arrays that a function closes over become constants of the compiled program. To pass large data as
    arguments instead, give `jax.tree_util.Partial(function, data)`: its leading arguments are then pytree leaves.
    """

    init: Callable[[Hyper, jax.Array], Params]
    inner_loss: Callable[[Params, Hyper, jax.Array, jax.Array], jax.Array]
    outer_loss: Callable[[Params, Hyper, jax.Array], jax.Array]
    schedule: Callable[[Hyper], dict[str, Any]]

    def __post_init__(self) -> None:
        for field in fields(self):
            function = getattr(self, field.name)
            if callable(function) and not isinstance(function, Partial):
                object.__setattr__(self, field.name, Partial(function))


def group_names(params: Params) -> list[str]:
    """A readable name for each leaf of `params`, from its path."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    return [jax.tree_util.keystr(path, simple=True, separator=".") or "params" for path in paths]
