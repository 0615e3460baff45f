"""Mean and spread of hypergradients, gathered by an optimizer that stays where it is."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class Moments(NamedTuple):
    """Of the gradients so far (Welford's recurrence)."""

    seen: jax.Array  # how many
    mean: Any
    squares: Any  # sum of squared deviations from the mean


def moments() -> optax.GradientTransformation:
    """Updates nothing; its state is the `Moments` of what it was given."""

    def init(hyper: Any) -> Moments:
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), hyper)
        return Moments(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(gradient: Any, state: Moments, hyper: Any = None) -> tuple[Any, Moments]:
        count = state.seen + 1
        mean = jax.tree.map(lambda mean, leaf: mean + (leaf - mean) / count, state.mean, gradient)
        squares = jax.tree.map(
            lambda squares, before, after, leaf: squares + (leaf - before) * (leaf - after),
            state.squares,
            state.mean,
            mean,
            gradient,
        )
        return jax.tree.map(jnp.zeros_like, gradient), Moments(count, mean, squares)

    return optax.GradientTransformation(init, update)


def mean_and_deviation(leaves: list[np.ndarray], names: list[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and standard deviation (n − 1 in its denominator) from the leaves of `Moments` over {name: array}."""
    count, means, squares = int(leaves[0]), leaves[1 : len(names) + 1], leaves[len(names) + 1 :]
    return {
        name: (mean, np.sqrt(square / max(count - 1, 1)))
        for name, mean, square in zip(names, means, squares, strict=True)
    }
