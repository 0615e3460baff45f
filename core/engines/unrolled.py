"""The unrolled engine: plain reverse-mode autodiff through the same dynamics in ordinary floats.

Its memory grows with the number of steps. Exact up to the rounding of the arithmetic; proves nothing about itself.
It is the oracle for the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from core.engines.engine import OneByOne, autodiff_certificate
from core.engines.floating import check_range, dynamics
from core.engines.inner import begin
from core.engines.problem import Hyper, Params, Problem, group_names
from core.engines.result import Hypergradient
from core.reversal.optimizers import Optimizer
from core.reversal.schedule import check


@dataclass(frozen=True)
class Unrolled(OneByOne):
    """See `unrolled`."""

    name: ClassVar[str] = "unrolled"
    exact_for: ClassVar[str] = "every hyperparameter, up to the rounding of floats; nothing is proven"

    def __call__(
        self, problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, key: jax.Array
    ) -> Hypergradient:
        """Hypergradient of one training run."""
        params, schedule = begin(problem, hyper, key, optimizer, num_steps)
        check(schedule, optimizer)
        (value, (params, largest)), gradient = _value_and_gradient(problem, hyper, key, optimizer, num_steps)
        check_range(largest, group_names(params))
        return Hypergradient(value, gradient, params, autodiff_certificate(self))


def unrolled() -> Unrolled:
    """Engine that differentiates training as one long program, keeping every step in memory."""
    return Unrolled()


@partial(jax.jit, static_argnames=("optimizer", "num_steps"))
def _value_and_gradient(
    problem: Problem, hyper: Hyper, key: jax.Array, optimizer: Optimizer, num_steps: int
) -> Any:
    def trained(hyper: Hyper) -> tuple[jax.Array, Any]:
        params, largest = train(problem, hyper, key, optimizer, num_steps)
        return problem.outer_loss(params, hyper, key), (params, largest)

    return jax.value_and_grad(trained, has_aux=True)(hyper)


def train(
    problem: Problem,
    hyper: Hyper,
    key: jax.Array,
    optimizer: Optimizer,
    num_steps: int,
    segment_length: int | None = None,
) -> tuple[Params, jax.Array]:
    """Train in ordinary floats. Traceable and differentiable.

    Args:
        problem, hyper, key, optimizer, num_steps: as for `hypergradient`.
        segment_length: divisor of `num_steps`; when differentiated, only the state between segments of this many
            steps is kept, and each segment is run again. None keeps every step.

    Returns:
        Final parameters, and each group's largest |w| after each step, [T, groups].
    """
    state, take = dynamics(problem, hyper, key, optimizer, num_steps)
    steps = jnp.arange(num_steps)
    if segment_length is None:
        state, largest = jax.lax.scan(take, state, steps)
        return state.position, largest

    @jax.checkpoint
    def take_segment(state: Any, steps: jax.Array) -> tuple[Any, jax.Array]:
        return jax.lax.scan(take, state, steps)

    state, largest = jax.lax.scan(take_segment, state, steps.reshape(-1, segment_length))
    return state.position, largest.reshape(num_steps, -1)
