"""Step back when the descent makes things worse: what has been best is kept, and steps from there are shorter."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Guarded(NamedTuple):
    """State of a guarded optimizer."""

    inner: Any  # of the optimizer that is guarded
    scale: jax.Array  # of its steps
    best_value: jax.Array  # lowest outer loss seen, on the evaluation seeds
    best_hyper: Any


def guarded(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer with steps that `look` can shrink."""

    def init(hyper: Any) -> Guarded:
        return Guarded(
            optimizer.init(hyper), jnp.ones(()), jnp.full((), jnp.inf), jax.tree.map(jnp.asarray, hyper)
        )

    def update(gradient: Any, state: Guarded, hyper: Any = None) -> tuple[Any, Guarded]:
        updates, inner = optimizer.update(gradient, state.inner, hyper)
        return jax.tree.map(lambda update: state.scale * update, updates), state._replace(inner=inner)

    return optax.GradientTransformation(init, update)


def look(
    optimizer: optax.GradientTransformation, state: Guarded, hyper: Any, value: float, shrink: float
) -> tuple[Any, Guarded, bool]:
    """Hyperparameters and state to go on from, and whether that is a step back.

    Args:
        optimizer: that is guarded; it begins anew where the descent goes back.
        state: of the guarded optimizer.
        hyper: where the descent stands.
        value: outer loss there, on the evaluation seeds; not finite where training diverges.
        shrink: what steps are scaled by after going back.
    """
    if math.isfinite(value) and value <= float(state.best_value):
        return hyper, state._replace(best_value=jnp.asarray(value), best_hyper=hyper), False
    if not _differs(hyper, state.best_hyper):  # no step led here that could have been shorter
        return hyper, state, False
    return (
        state.best_hyper,
        state._replace(inner=optimizer.init(state.best_hyper), scale=state.scale * shrink),
        True,
    )


def _differs(one: Any, other: Any) -> bool:
    return any(
        bool(jnp.any(left != right))
        for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )
