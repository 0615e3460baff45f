"""Descent on the hyperparameters as a specification wants it, and its safeguard."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import optax

from core.checkpoints import to_numpy
from core.meta_optimization import MetaState
from core.records import Values
from core.safeguard import guarded, look
from core.spec.meta import Meta


def descent(meta: Meta) -> optax.GradientTransformation:
    """Clipping, momentum and steps."""
    steps = optax.adam(meta.step_size) if meta.optimizer == "adam" else optax.sgd(meta.step_size)
    if meta.momentum:  # v ← γv + (1−γ)g, as the inner optimizer has it
        steps = optax.chain(optax.ema(meta.momentum, debias=False), steps)
    return steps if meta.clip is None else optax.chain(optax.clip_by_global_norm(meta.clip), steps)


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
