"""Training alone: the forward half of the reversible engine, for evaluating hyperparameters."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from core.hypergradient.inner import begin, inner_gradient
from core.hypergradient.problem import Hyper, Params, Problem, group_names
from core.reversible.optimizers import Optimizer, at_rest
from core.reversible.schedule import check
from core.reversible.trajectory import as_real, forward, plan_for


def train(
    problem: Problem,
    hyper: Hyper,
    *,
    optimizer: Optimizer,
    num_steps: int,
    key: jax.Array,
    interrupt: Callable[[], None] = lambda: None,
) -> Params:
    """Parameters after training, with the very bits that `hypergradient` trains to.

    Raises:
        FixedPointOverflow: training diverged.
    """
    hyper = jax.tree.map(jnp.asarray, hyper)
    params, schedule = begin(problem, hyper, key, optimizer, num_steps)
    check(schedule, optimizer)
    dtypes = jax.tree.map(lambda leaf: jnp.dtype(leaf.dtype), params)
    trajectory = forward(
        optimizer,
        inner_gradient(problem, hyper, key),
        schedule,
        at_rest(optimizer, params),
        plan_for(optimizer, schedule, jax.eval_shape(lambda: params), num_steps),
        dtypes=dtypes,
        names=group_names(params),
        interrupt=interrupt,
    )
    return as_real(trajectory.state.position, dtypes)
