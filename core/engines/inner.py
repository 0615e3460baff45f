"""The inner problem as engines see it: where training begins, its gradient, and how cotangents leave it."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from core.engines.problem import Hyper, Params, Problem
from core.errors import InvalidProblem
from core.reversal.optimizers import Optimizer
from core.reversal.schedule import Schedule, normalize


@partial(jax.jit, static_argnames=("optimizer", "num_steps"))
def begin(
    problem: Problem, hyper: Hyper, key: jax.Array, optimizer: Optimizer, num_steps: int
) -> tuple[Params, Schedule]:
    """Initial parameters and schedule of a training run."""
    params = problem.init(hyper, key)
    _check_params(params)
    return params, normalize(problem.schedule(hyper), optimizer, params, num_steps)


@partial(jax.jit, static_argnames=("optimizer", "num_steps"))
def pull_back(
    problem: Problem,
    hyper: Hyper,
    key: jax.Array,
    optimizer: Optimizer,
    num_steps: int,
    d_params: Params,
    d_schedule: Schedule,
) -> Hyper:
    """Cotangent of `hyper` from those of what `begin` returned."""
    _, pull = jax.vjp(lambda hyper: begin(problem, hyper, key, optimizer, num_steps), hyper)
    return pull((d_params, d_schedule))[0]


@jax.jit
def outer(
    problem: Problem, params: Params, hyper: Hyper, key: jax.Array
) -> tuple[jax.Array, tuple[Params, Hyper]]:
    """Outer loss and its gradients with respect to parameters and hyperparameters."""
    return jax.value_and_grad(problem.outer_loss, argnums=(0, 1))(params, hyper, key)


def inner_gradient(problem: Problem, hyper: Hyper, key: jax.Array) -> Partial:
    """The gradient that training descends on, as a `Partial`: (params, step) → pytree like params."""
    return Partial(_inner_gradient, problem, hyper, key)


def _inner_gradient(problem: Problem, hyper: Hyper, key: jax.Array, params: Params, step: jax.Array) -> Params:
    return jax.grad(problem.inner_loss)(params, hyper, step, jax.random.fold_in(key, step))


@jax.jit
def accumulators(problem: Problem, params: Params, hyper: Hyper, key: jax.Array) -> dict[int, jax.Array]:
    """Zeros like those leaves of `hyper` that the inner loss reads, by their index.

    The others need no second-order product: a schedule of 10 000 steps must not be summed over 10 000 times.
    """
    leaves, treedef = jax.tree.flatten(hyper)
    jaxpr = jax.make_jaxpr(
        lambda leaves: problem.inner_loss(params, treedef.unflatten(leaves), jnp.zeros((), jnp.int64), key)
    )(leaves).jaxpr
    read = {var for equation in jaxpr.eqns for var in equation.invars if not hasattr(var, "val")}
    read |= {var for var in jaxpr.outvars if not hasattr(var, "val")}
    return {
        index: jnp.zeros_like(leaf)
        for index, (leaf, var) in enumerate(zip(leaves, jaxpr.invars, strict=True))
        if var in read
    }


def replace_leaves(tree: Any, replacements: dict[int, jax.Array]) -> Any:
    """`tree` with some leaves, by index, replaced."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef.unflatten([replacements.get(index, leaf) for index, leaf in enumerate(leaves)])


def _check_params(params: Params) -> None:
    leaves = jax.tree.leaves(params)
    dtypes = {jnp.dtype(leaf.dtype).name for leaf in leaves}
    if not leaves or not dtypes <= {"float32", "float64"}:
        raise InvalidProblem(
            f"init must return a pytree of float32 or float64 arrays, not {sorted(dtypes) or 'an empty one'}; "
            "cast what it returns"
        )
