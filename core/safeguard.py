"""Step back when the descent makes things worse: what has been best is kept, and steps from there are shorter."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from core.checkpoints import to_numpy
from core.descent import descent
from core.meta_optimization import MetaState
from core.records import Values
from core.spec.meta import Meta


class Safeguard:
    """Goes back where evaluation shows that the descent made things worse, or training diverged.

    Attributes:
        optimizer: the descent with steps that the safeguard can shrink.
    """

    def __init__(self, meta: Meta, outer_loss: Callable[[Values], float]) -> None:
        """Of a specification that asks for one.

        Args:
            meta: the outer loop.
            outer_loss: on the evaluation seeds; infinite where training cannot be done.
        """
        if meta.safeguard is None:
            raise ValueError("meta.safeguard is not set; set it, or descend without")
        self._asked, self._last, self._outer_loss = meta.safeguard, meta.num_iterations, outer_loss
        self._descent = descent(meta)
        self.optimizer = guarded(self._descent)

    def begin(self, state: MetaState) -> MetaState:
        """The first state, knowing its outer loss."""
        return self._looked(state, self._outer_loss(to_numpy(state.hyper)))[0]

    def __call__(self, state: MetaState, diverged: bool) -> tuple[MetaState, dict[str, Any] | None]:
        """Where to go on after a meta-iteration, and what was found where it was its turn to be looked at."""
        last = state.iteration == self._last or state.stopped
        if not diverged and not last and state.iteration % self._asked.every:
            return state, None
        return self._looked(state, math.inf if diverged else self._outer_loss(to_numpy(state.hyper)))

    def _looked(self, state: MetaState, value: float) -> tuple[MetaState, dict[str, Any]]:
        hyper, guard, back = look(self._descent, state.optimizer_state, state.hyper, value, self._asked.shrink)
        found = {
            "outer_loss": value if math.isfinite(value) else None,
            "stepped_back": back,
            "scale": float(guard.scale),
        }
        return state._replace(hyper=hyper, optimizer_state=guard), found


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
