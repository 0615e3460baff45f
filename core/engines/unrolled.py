"""The unrolled engine: plain reverse-mode autodiff through the same dynamics in ordinary floats.

Its memory grows with the number of steps. It is the oracle for the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax

from core.engines.float_engine import FloatEngine, Outcome, by_reverse_mode
from core.engines.problem import Hyper, Problem
from core.reversal.optimizers import Optimizer


@dataclass(frozen=True)
class Unrolled(FloatEngine):
    """See `unrolled`."""

    name = "unrolled"
    exact_for = "every hyperparameter, up to the rounding of floats; nothing is proven"
    complete = True

    def differentiate(
        self, problem: Problem, hyper: Hyper, key: jax.Array, optimizer: Optimizer, num_steps: int
    ) -> Outcome:
        """See `FloatEngine`."""
        return by_reverse_mode(problem, hyper, key, optimizer, num_steps, jax.lax.scan)


def unrolled() -> Unrolled:
    """Engine that differentiates training as one long program, keeping every step in memory."""
    return Unrolled()
