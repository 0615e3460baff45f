"""Directions in the space of hyperparameters, and moves along them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.engines.problem import Hyper
from core.errors import InvalidProblem


def random_direction(hyper: Hyper, random: np.random.Generator) -> Hyper:
    """± each leaf's scale."""

    def one(leaf: jax.Array) -> np.ndarray:
        size = float(np.sqrt(np.mean(np.square(np.asarray(leaf, np.float64))))) if leaf.size else 0.0
        scale = float(np.clip(size, 1e-3, 1.0)) if size else 1.0
        return scale * random.choice([-1.0, 1.0], leaf.shape)

    return jax.tree.map(one, hyper)


def moved(hyper: Hyper, direction: Hyper, distance: float) -> Hyper:
    return jax.tree.map(
        lambda leaf, along: (leaf.astype(jnp.float64) + distance * jnp.asarray(along)).astype(leaf.dtype),
        hyper,
        direction,
    )


def check_like(hyper: Hyper, given: Hyper, name: str) -> None:
    shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (hyper, given)]
    if jax.tree.structure(hyper) != jax.tree.structure(given) or shapes[0] != shapes[1]:
        raise InvalidProblem(
            f"{name} has leaves of shape {shapes[1]}; it must be a pytree like hyper, {shapes[0]}"
        )


def wide_leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
