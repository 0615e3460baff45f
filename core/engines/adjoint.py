"""The adjoint of training, and how it is carried over one undone step.

Reverse pass, for t = T−1 … 0, with adjoint λ of the state s = (w, v, …) and update s' = Φ(s, g, h):

    undo the step exactly, recovering s_t and g_t
    (λ, u, d_h) = vjp of Φ at (s_t, g_t, h_t) applied to λ
    λ_w += ∇²_ww L · u ;  dθ += ∇²_θw L · u

Both second-order products are one forward-over-reverse product: the derivative of w ↦ ∇_{w,θ} L in direction u.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from core.engines.inner import accumulators, inner_gradient, learned_entries, pull_back, replace_leaves
from core.engines.problem import Hyper, Params, Problem
from core.reversal.optimizers import Optimizer, State
from core.reversal.schedule import Schedule, hypers_of
from core.reversal.seeds import Seeds
from core.reversal.segments import isolated
from core.reversal.states import Static
from core.reversal.stepping import rest
from core.reversal.stepping import step as take_step


class Adjoint(NamedTuple):
    """Carried backward: the derivative of the outer loss with respect to everything upstream."""

    state: State  # λ, in compute precision
    schedule: Schedule  # of those entries alone that depend on hyper
    hyper: dict[int, jax.Array]  # leaves of hyper that the inner loss reads, by index


@dataclass(frozen=True)
class FollowStep:
    """Carries the adjoint over one undone step.

    `fused` takes the gradient from the linearization that the second-order product needs anyhow; otherwise the
    gradient is computed once more, isolated from it. Which of them repeats the forward bits is for a probe to say.
    """

    optimizer: Optimizer
    fused: bool

    def __call__(
        self,
        problem: Problem,
        hyper: Hyper,
        adjoint: Adjoint,
        step: jax.Array,
        params: Params,
        key: jax.Array,
    ) -> tuple[Params, Callable[..., Adjoint]]:
        """An `Observe` (see `core.reversal.segments`), once its first two arguments are bound."""
        step_key = jax.random.fold_in(key, step)
        leaves = jax.tree.leaves(hyper)
        read = {index: leaves[index] for index in adjoint.hyper}

        def gradients(params: Params) -> tuple[Params, dict[int, jax.Array]]:
            def loss(params: Params, read: dict[int, jax.Array]) -> jax.Array:
                return problem.inner_loss(params, replace_leaves(hyper, read), step, step_key)

            return jax.grad(loss, argnums=(0, 1))(params, read)

        (gradient, _), second_order = jax.linearize(gradients, params)
        if self.fused:
            gradient = jax.lax.optimization_barrier(gradient)
        else:
            gradient = isolated(inner_gradient(problem, hyper), params, step, key)

        def follow(before: State, row: dict[str, jax.Array], weights: dict[str, Params]) -> Adjoint:
            treedef = jax.tree.structure(params)
            learned_row, fixed_row = _parted(row, adjoint.schedule.rows)
            learned_weights, fixed_weights = _parted(weights, adjoint.schedule.weights)

            def update(state: State, gradient: Params, row: dict[str, jax.Array], weights: Any) -> State:
                hypers = hypers_of(row | fixed_row, weights | fixed_weights, treedef)
                spread_hypers = {
                    name: jax.tree.map(lambda hyper, param: spread(hyper, param.shape, param.dtype), tree, params)
                    for name, tree in hypers.items()
                }
                return take_step(self.optimizer, state, gradient, spread_hypers)

            _, pull = jax.vjp(update, before, gradient, learned_row, learned_weights)
            d_before, d_gradient, d_row, d_weights = pull(adjoint.state)
            # barrier: without it XLA on CPU fuses the product into each of its consumers and recomputes it there
            direction = jax.lax.optimization_barrier(d_gradient)
            d_params, d_read = jax.lax.optimization_barrier(second_order(direction))
            d_before = d_before._replace(position=jax.tree.map(jnp.add, d_before.position, d_params))
            schedule = adjoint.schedule.add_row(step, d_row)
            return Adjoint(
                d_before,
                schedule._replace(weights=jax.tree.map(jnp.add, schedule.weights, d_weights)),
                jax.tree.map(jnp.add, adjoint.hyper, d_read),
            )

        return gradient, follow


def _parted(entries: dict[str, Any], names: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entries with these names, and the others."""
    chosen = {name: entries[name] for name in names}
    return chosen, {name: value for name, value in entries.items() if name not in names}


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def spread(hyper: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """A hyperparameter for every weight of a group, in compute precision."""
    return jnp.broadcast_to(hyper.astype(dtype), shape)


def _spread_forward(hyper: jax.Array, shape: tuple[int, ...], dtype: Any) -> tuple[jax.Array, jax.Array]:
    return spread(hyper, shape, dtype), hyper


def _spread_backward(
    shape: tuple[int, ...], dtype: Any, hyper: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array]:
    if hyper.ndim:
        return (cotangent.astype(jnp.float64),)
    if cotangent.ndim > 1 and cotangent.size:
        # columns are summed by a product with ones: XLA on CPU takes three times as long for a plain sum of
        # products (145 against 45 microseconds for both sums of a 784 by 50 group)
        rows = cotangent.reshape(-1, cotangent.shape[-1])
        cotangent = jnp.matmul(jnp.ones(len(rows), rows.dtype), rows, precision="highest")
    return (jnp.sum(cotangent, dtype=jnp.float64),)


spread.defvjp(_spread_forward, _spread_backward)


@partial(jax.jit, static_argnames=("optimizer", "shapes", "num_steps", "seeds"))
def adjoint_at_rest(
    optimizer: Optimizer,
    shapes: Static,
    problem: Problem,
    hyper: Hyper,
    key: jax.Array,
    schedule: Schedule,
    num_steps: int,
    seeds: Seeds,
) -> Adjoint:
    """Zero cotangents, with a leading axis for several runs."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.tree)
    state = jax.tree.map(jnp.zeros_like, rest(optimizer, zeros))
    learned = learned_entries(problem, hyper, optimizer, num_steps, schedule, zeros)
    adjoint = Adjoint(state, jax.tree.map(jnp.zeros_like, learned), accumulators(problem, zeros, hyper, key))
    if seeds.count is None:
        return adjoint
    return jax.tree.map(lambda leaf: jnp.zeros((seeds.count, *leaf.shape), leaf.dtype), adjoint)


@partial(jax.jit, static_argnames=("optimizer", "num_steps", "seeds"))
def collect(
    problem: Problem,
    hyper: Hyper,
    key: jax.Array,
    optimizer: Optimizer,
    num_steps: int,
    adjoint: Adjoint,
    d_hyper: Hyper,
    seeds: Seeds,
) -> Hyper:
    """The hypergradient: through the outer loss, the initial parameters and schedule, and every inner loss."""
    d_begin = pull_back(problem, hyper, key, optimizer, num_steps, adjoint.state, adjoint.schedule, seeds)
    gradient = jax.tree.map(jnp.add, d_hyper, d_begin)
    leaves = jax.tree.leaves(gradient)
    return replace_leaves(
        gradient,
        {index: (leaves[index] + more).astype(leaves[index].dtype) for index, more in adjoint.hyper.items()},
    )
