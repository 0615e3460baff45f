"""The truncated engine: reverse-mode autodiff through the last steps of training only."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from core.engines.arguments import an_int
from core.engines.engine import Engine
from core.engines.float_engine import FloatEngine, Outcome
from core.engines.floating import dynamics
from core.engines.problem import Hyper, Params, Problem
from core.engines.unrolled import Unrolled
from core.reversal.optimizers import Optimizer


@dataclass(frozen=True)
class Truncated(FloatEngine):
    """See `truncated`."""

    last: int

    name = "truncated"
    exact_for = (
        "what the outer loss and the last steps do with a hyperparameter, their start held fixed; what earlier steps "
        "and the initial weights do with it is left out"
    )
    complete = False  # as long as training has more steps

    def exact_for_steps(self, num_steps: int) -> str:
        """See `FloatEngine`."""
        return Unrolled.exact_for if self.last >= num_steps else self.exact_for

    def differentiate(
        self, problem: Problem, hyper: Hyper, key: jax.Array, optimizer: Optimizer, num_steps: int
    ) -> Outcome:
        """See `FloatEngine`."""
        first = max(0, num_steps - self.last)
        state, take = dynamics(problem, jax.lax.stop_gradient(hyper), key, optimizer, num_steps)
        state, before = jax.lax.scan(take, state, jnp.arange(first))

        def trained(hyper: Hyper) -> tuple[jax.Array, tuple[Params, jax.Array]]:
            start, take = dynamics(problem, hyper, key, optimizer, num_steps)
            end, largest = jax.lax.scan(take, state if first else start, jnp.arange(first, num_steps))
            return problem.outer_loss(end.position, hyper, key), (end.position, largest)

        (value, (params, largest)), gradient = jax.value_and_grad(trained, has_aux=True)(hyper)
        return Outcome(value, gradient, params, jnp.concatenate([before, largest]))

    def shortened(self, num_steps: int, short: int) -> Engine:
        """See `Engine`."""
        return replace(self, last=max(1, round(self.last * short / num_steps)))


def truncated(last: int) -> Truncated:
    """Engine that differentiates through the last steps only (Shaban et al. 2019, "Truncated Back-propagation for
    Bilevel Optimization"). It keeps `last` steps in memory.

    Args:
        last: number of steps, at least 1. If training has no more than that, nothing is cut off: the gradient is the
            whole one, initial weights included, and its certificate says so.

    Raises:
        InvalidProblem: there is no such number.
    """
    return Truncated(an_int("last", last))
