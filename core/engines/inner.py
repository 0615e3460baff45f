"""The inner problem as engines see it: where training begins, its gradient, and how cotangents leave it."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from core.engines.problem import Hyper, Params, Problem
from core.errors import InvalidProblem
from core.reversal.dependence import depending_outputs, read_inputs
from core.reversal.optimizers import Optimizer, State
from core.reversal.schedule import Schedule, normalize, prepare
from core.reversal.seeds import ONE, Seeds
from core.reversal.stepping import rest


@partial(jax.jit, static_argnames=("optimizer", "num_steps"))
def begin(
    problem: Problem, hyper: Hyper, key: jax.Array, optimizer: Optimizer, num_steps: int
) -> tuple[Params, Schedule]:
    """Initial parameters and schedule, as the problem gives them, of a training run."""
    params = problem.init(hyper, key)
    check_params(params)
    check_losses(problem, params, hyper, key)
    return params, normalize(problem.schedule(hyper), optimizer, params, num_steps)


@partial(jax.jit, static_argnames=("optimizer", "num_steps", "seeds"))
def initial_parameters(
    problem: Problem, hyper: Hyper, key: jax.Array, optimizer: Optimizer, num_steps: int, seeds: Seeds = ONE
) -> Params:
    """Initial parameters of every run."""

    def one(problem: Problem, hyper: Hyper, key: jax.Array) -> Params:
        return begin(problem, hyper, key, optimizer, num_steps)[0]

    return seeds.map(one, (None, None, 0))(problem, hyper, key)


@partial(jax.jit, static_argnames=("optimizer", "num_steps", "seeds"))
def pull_back(
    problem: Problem,
    hyper: Hyper,
    key: jax.Array,
    optimizer: Optimizer,
    num_steps: int,
    d_state: State,
    d_schedule: Schedule,
    seeds: Seeds = ONE,
) -> Hyper:
    """Cotangent of `hyper` in every run from those of the initial state and of entries of the prepared schedule."""

    def one(problem: Problem, hyper: Hyper, key: jax.Array, d_state: State, d_schedule: Schedule) -> Hyper:
        def start(hyper: Hyper) -> tuple[State, Schedule]:
            params, schedule = begin(problem, hyper, key, optimizer, num_steps)
            return rest(optimizer, params), prepare(schedule, optimizer, num_steps).entries(d_schedule)

        return jax.vjp(start, hyper)[1]((d_state, d_schedule))[0]

    return seeds.map(one, (None, None, 0, 0, 0))(problem, hyper, key, d_state, d_schedule)


@partial(jax.jit, static_argnames="seeds")
def outer(
    problem: Problem, params: Params, hyper: Hyper, key: jax.Array, seeds: Seeds = ONE
) -> tuple[jax.Array, tuple[Params, Hyper]]:
    """Outer loss of every run and its gradients with respect to parameters and hyperparameters."""

    def one(problem: Problem, hyper: Hyper, params: Params, key: jax.Array) -> Any:
        return jax.value_and_grad(problem.outer_loss, argnums=(0, 1))(params, hyper, key)

    return seeds.map(one, (None, None, 0, 0))(problem, hyper, params, key)


def inner_gradient(problem: Problem, hyper: Hyper) -> Partial:
    """The gradient that training descends on, as a `Partial`: (params, step, run's key) → pytree like params."""
    return Partial(_inner_gradient, problem, hyper)


def _inner_gradient(problem: Problem, hyper: Hyper, params: Params, step: jax.Array, key: jax.Array) -> Params:
    return jax.grad(problem.inner_loss)(params, hyper, step, jax.random.fold_in(key, step))


def learned_entries(
    problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, schedule: Schedule, params: Params
) -> Schedule:
    """Those entries of the prepared schedule that depend on `hyper`. No other needs a cotangent."""

    def prepared(hyper: Hyper) -> Schedule:
        return prepare(normalize(problem.schedule(hyper), optimizer, params, num_steps), optimizer, num_steps)

    jaxpr, entries = jax.make_jaxpr(prepared, return_shape=True)(hyper)
    depends = jax.tree.structure(entries).unflatten(depending_outputs(jaxpr.jaxpr))
    return Schedule(
        {name: row for name, row in schedule.rows.items() if depends.rows[name]},
        {name: tree for name, tree in schedule.weights.items() if any(jax.tree.leaves(depends.weights[name]))},
    )


@jax.jit
def accumulators(problem: Problem, params: Params, hyper: Hyper, key: jax.Array) -> dict[int, jax.Array]:
    """Zeros like those leaves of `hyper` that the inner loss reads, by their index.

    The others need no second-order product: a schedule of 10 000 steps must not be summed over 10 000 times.
    """
    leaves, treedef = jax.tree.flatten(hyper)
    jaxpr = jax.make_jaxpr(
        lambda leaves: problem.inner_loss(params, treedef.unflatten(leaves), jnp.zeros((), jnp.int64), key)
    )(leaves).jaxpr
    return {
        index: jnp.zeros(leaf.shape, jnp.float64)  # a sum over all steps, whatever the precision of its terms
        for index, (leaf, read) in enumerate(zip(leaves, read_inputs(jaxpr), strict=True))
        if read
    }


def replace_leaves(tree: Any, replacements: dict[int, jax.Array]) -> Any:
    """`tree` with some leaves, by index, replaced."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef.unflatten([replacements.get(index, leaf) for index, leaf in enumerate(leaves)])


def check_params(params: Params) -> None:
    """Raise InvalidProblem unless there are parameters to train, of one of the types that gradients have."""
    leaves = jax.tree.leaves(params)
    dtypes = {jnp.dtype(leaf.dtype).name for leaf in leaves}
    if not leaves or not dtypes <= {"float32", "float64"}:
        raise InvalidProblem(
            f"init must return a pytree of float32 or float64 arrays, not {sorted(dtypes) or 'an empty one'}; "
            "cast what it returns"
        )
    if not any(leaf.size for leaf in leaves):
        raise InvalidProblem(
            f"init must return at least one weight, but its arrays have the shapes {[leaf.shape for leaf in leaves]}: "
            "there is nothing to train"
        )


def check_losses(problem: Problem, params: Params, hyper: Hyper, key: jax.Array) -> None:
    """Raise InvalidProblem unless both losses are one real number."""
    losses = {
        "inner_loss": jax.eval_shape(problem.inner_loss, params, hyper, jnp.zeros((), jnp.int64), key),
        "outer_loss": jax.eval_shape(problem.outer_loss, params, hyper, key),
    }
    for name, loss in losses.items():
        shape, dtype = getattr(loss, "shape", None), getattr(loss, "dtype", type(loss).__name__)
        if shape != () or not jnp.issubdtype(dtype, jnp.floating):
            raise InvalidProblem(
                f"{name} must return one real number, not {dtype} of shape {shape}; take its mean or sum, and its real "
                "part if it is complex"
            )
