"""Training in ordinary floats: the dynamics of `core.reversal`, for engines that differentiate through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.engines.inner import begin, inner_gradient
from core.engines.problem import Hyper, Params, Problem
from core.errors import FixedPointOverflow
from core.reversal.lifting import LIMIT
from core.reversal.optimizers import Optimizer, State
from core.reversal.schedule import hypers_of, prepare
from core.reversal.stepping import TreeHypers, rest, step, unstep

Take = Callable[[State, jax.Array], tuple[State, jax.Array]]
"""(state, step) → (state after the step, each group's largest |w| in it, [groups]); differentiable."""


def dynamics(
    problem: Problem, hyper: Hyper, key: jax.Array, optimizer: Optimizer, num_steps: int
) -> tuple[State, Take]:
    """State that training starts from, and the function that takes one step; both differentiable in
    `hyper`; the state is a pytree of float arrays whose field `position` holds the elementary parameters.
    """
    params, hypers_at = _begin(problem, hyper, key, optimizer, num_steps)
    gradient = inner_gradient(problem, hyper)

    def take(state: State, number: jax.Array) -> tuple[State, jax.Array]:
        state = step(optimizer, state, gradient(state.position, number, key), hypers_at(number))
        largest = jnp.stack([jnp.max(jnp.abs(leaf), initial=0.0) for leaf in jax.tree.leaves(state.position)])
        return state, jax.lax.stop_gradient(largest)

    return rest(optimizer, params), take


def undoing(
    problem: Problem, hyper: Hyper, key: jax.Array, optimizer: Optimizer, num_steps: int
) -> Callable[[State, jax.Array], State]:
    """The function that undoes one step in floats: (state after, step) → state before, but for rounding."""
    _, hypers_at = _begin(problem, hyper, key, optimizer, num_steps)
    gradient = inner_gradient(problem, hyper)

    def undo(state: State, number: jax.Array) -> State:
        return unstep(optimizer, state, lambda position: gradient(position, number, key), hypers_at(number))

    return undo


def _begin(
    problem: Problem, hyper: Hyper, key: jax.Array, optimizer: Optimizer, num_steps: int
) -> tuple[Params, Callable[[jax.Array], TreeHypers]]:
    """Initial parameters, and a step's hyperparameters in their precision."""
    params, schedule = begin(problem, hyper, key, optimizer, num_steps)
    schedule = prepare(schedule, optimizer, num_steps)
    treedef = jax.tree.structure(params)

    def hypers_at(number: jax.Array) -> TreeHypers:
        hypers = hypers_of(schedule.row(number), schedule.weights, treedef)
        return {
            name: jax.tree.map(lambda value, param: value.astype(param.dtype), tree, params)
            for name, tree in hypers.items()
        }

    return params, hypers_at


def check_range(largest: Any, names: list[str]) -> None:
    """Hold ordinary floats to the range of fixed point, so that engines agree on what diverges.

    Args:
        largest: [T, groups], as `take` returns them.
        names: of the groups.

    Raises:
        FixedPointOverflow: names the first step and group that left the range.
    """
    largest = np.asarray(largest)
    outside = ~(largest < LIMIT)
    if outside.any():
        step, group = (int(index) for index in np.argwhere(outside)[0])
        raise FixedPointOverflow(step=step, group=names[group], largest=float(largest[step, group]), limit=LIMIT)
