"""Checkpointed engines: reverse-mode autodiff that keeps some states and computes the others again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import equinox.internal
import jax
import jax.numpy as jnp

from core.engines.arguments import an_int
from core.engines.float_engine import FloatEngine, Outcome, by_reverse_mode
from core.engines.floating import Take
from core.engines.problem import Hyper, Problem
from core.errors import InvalidProblem
from core.reversal.optimizers import Optimizer, State


@dataclass(frozen=True)
class Checkpointed(FloatEngine):
    """See `checkpointed`."""

    method: Literal["sqrt", "recursive"]
    checkpoints: int | None

    exact_for = "every hyperparameter, up to the rounding of floats; nothing is proven"
    complete = True

    @property
    def name(self) -> str:  # type: ignore[override]
        """As certificates call it."""
        return "checkpointed" if self.method == "sqrt" else "recursive"

    def differentiate(
        self, problem: Problem, hyper: Hyper, key: jax.Array, optimizer: Optimizer, num_steps: int
    ) -> Outcome:
        """See `FloatEngine`."""
        loop = self._in_segments if self.method == "sqrt" else self._recursively
        return by_reverse_mode(problem, hyper, key, optimizer, num_steps, loop)

    def _in_segments(self, take: Take, state: State, steps: jax.Array) -> tuple[State, jax.Array]:
        count = min(self.checkpoints or math.isqrt(len(steps)), len(steps))
        length = math.ceil(len(steps) / count)
        count = math.ceil(len(steps) / length)  # fewer may do at this length

        @jax.checkpoint
        def take_segment(state: State, steps: jax.Array) -> tuple[State, jax.Array]:
            return jax.lax.scan(take, state, steps)

        # every segment has the same length but the last, which takes the steps that are left
        whole = (count - 1) * length
        state, largest = jax.lax.scan(take_segment, state, steps[:whole].reshape(count - 1, length))
        state, last = take_segment(state, steps[whole:])
        return state, jnp.concatenate([largest.reshape(whole, last.shape[1]), last])

    def _recursively(self, take: Take, state: State, steps: jax.Array) -> tuple[State, jax.Array]:
        result: Any = equinox.internal.scan(take, state, steps, kind="checkpointed", checkpoints=self.checkpoints)
        return result


def checkpointed(method: Literal["sqrt", "recursive"] = "sqrt", checkpoints: int | None = None) -> Checkpointed:
    """Engine that differentiates training through checkpoints.

    Args:
        method: "sqrt" cuts training into about √T segments and computes each once more (Chen et al. 2016,
            "Training Deep Nets with Sublinear Memory Cost"); "recursive" places checkpoints as
            the reverse pass goes (Stumm & Walther 2010; equinox's implementation).
        checkpoints: how many states are kept at a time, at most; about √T unless given.

    Raises:
        InvalidProblem: there is no such method or number.
    """
    if method not in ("sqrt", "recursive"):
        raise InvalidProblem(f"method is {method!r}; it must be 'sqrt' or 'recursive'")
    return Checkpointed(method, None if checkpoints is None else an_int("checkpoints", checkpoints))
