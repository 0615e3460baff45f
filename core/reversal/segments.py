"""The jitted loops that a trajectory is made of: some steps forward, and the same steps undone.

Their number of steps is dynamic, so that one compilation serves every schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from core.reversal.lifting import OVERFLOW, to_real
from core.reversal.optimizers import Optimizer, Params, State
from core.reversal.schedule import Schedule, hypers_of

Gradient = Callable[[Params, jax.Array], Params]
"""(params in compute dtype, step) → gradient. A `jax.tree_util.Partial`, so that arrays in it are arguments."""

Observe = Callable[[Any, jax.Array, Params], tuple[Params, Callable[..., Any]]]
"""(carry, step, params) → (gradient at params, follow); a `Partial`. The gradient must have the bits that the
forward pass had. `follow(real state before the step, row, weights) → carry` is called once the step is undone."""


class Static:
    """A pytree of hashable leaves as one static argument."""

    def __init__(self, tree: Any) -> None:
        leaves, self._treedef = jax.tree.flatten(tree)
        self._leaves = tuple(leaves)

    @property
    def tree(self) -> Any:
        return self._treedef.unflatten(self._leaves)

    def __hash__(self) -> int:
        return hash((self._leaves, self._treedef))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and (self._leaves, self._treedef) == (other._leaves, other._treedef)


@partial(jax.jit, static_argnames=("optimizer", "dtypes"), donate_argnames=("state",))
def advance(
    optimizer: Optimizer,
    dtypes: Static,
    gradient: Gradient,
    schedule: Schedule,
    state: State,
    start: int,
    stop: int,
) -> tuple[State, jax.Array]:
    """Take steps [start, stop). Returns the state, and whether it is in range at the end."""
    step = partial(_step, optimizer, dtypes, gradient, schedule)
    state = jax.lax.fori_loop(start, stop, lambda number, state: step(state, number), state)
    return state, jnp.all(magnitudes(state) < OVERFLOW)


@partial(jax.jit, static_argnames=("optimizer", "dtypes"), donate_argnames=("state",))
def advance_checked(
    optimizer: Optimizer,
    dtypes: Static,
    gradient: Gradient,
    schedule: Schedule,
    state: State,
    start: int,
    stop: int,
) -> tuple[State, jax.Array, jax.Array]:
    """Take steps [start, stop), or up to the first that leaves the range.

    Returns:
        The state; the number of the step reached, below `stop` if it left the range; and each group's largest
        |state| in that step.
    """

    def take(carry: tuple[State, jax.Array, jax.Array]) -> tuple[State, jax.Array, jax.Array]:
        state, number, _ = carry
        state = _step(optimizer, dtypes, gradient, schedule, state, number)
        largest = magnitudes(state)
        return state, jnp.where(jnp.all(largest < OVERFLOW), number + 1, number), largest

    def goes_on(carry: tuple[State, jax.Array, jax.Array]) -> jax.Array:
        _, number, largest = carry
        return (number < stop) & jnp.all(largest < OVERFLOW)

    groups = jax.tree.structure(state.position).num_leaves
    return jax.lax.while_loop(goes_on, take, (state, jnp.asarray(start), jnp.zeros(groups)))


def _step(
    optimizer: Optimizer,
    dtypes: Static,
    gradient: Gradient,
    schedule: Schedule,
    state: State,
    number: jax.Array,
) -> State:
    # barriers: the gradient must be compiled apart from its surroundings, here and in `rewind`, to have the same
    # bits in both; and without them XLA on CPU recomputes it inside every consumer
    position = jax.lax.optimization_barrier(as_real(state.position, dtypes.tree))
    grads = jax.lax.optimization_barrier(gradient(position, number))
    hypers = hypers_of(schedule.row(number), schedule.weights, jax.tree.structure(state.position))
    return optimizer.step(state, grads, hypers)


@partial(jax.jit, static_argnames=("optimizer", "dtypes"), donate_argnames=("state", "carry"))
def rewind(
    optimizer: Optimizer,
    dtypes: Static,
    observe: Observe,
    schedule: Schedule,
    state: State,
    carry: Any,
    start: jax.Array,
    stop: jax.Array,
    forgotten: dict[str, dict[int, jax.Array]],
) -> tuple[State, Any]:
    """Undo steps [start, stop), the last one first. `forgotten` fields are restored from what was stored."""
    treedef = jax.tree.structure(state.position)

    def undo(iteration: jax.Array, both: tuple[State, Any]) -> tuple[State, Any]:
        state, carry = both
        step = stop - 1 - iteration
        row = schedule.row(step)
        follow: list[Callable[..., Any]] = []

        def gradient_at(position: Params) -> Params:
            params = jax.lax.optimization_barrier(as_real(position, dtypes.tree))
            grads, then = observe(carry, step, params)
            follow.append(then)
            return grads

        state = optimizer.unstep(state, gradient_at, hypers_of(row, schedule.weights, treedef))
        state = _restore(state, forgotten)
        before = _real_state(state, dtypes.tree)
        return state, follow[0](before, row, schedule.weights)

    return jax.lax.fori_loop(0, stop - start, undo, (state, carry))


def only_gradient(gradient: Gradient) -> Observe:
    """An observer for running backward without an adjoint: it carries nothing."""
    return jax.tree_util.Partial(_only_gradient, gradient)


def _only_gradient(gradient: Gradient, carry: Any, step: jax.Array, params: Params) -> Any:
    grads = jax.lax.optimization_barrier(gradient(params, step))
    return grads, lambda before, row, weights: carry


def _real_state(state: State, dtypes: Params) -> State:
    """The state in compute precision, without its buffers."""
    fields = {name: as_real(tree, dtypes) for name, tree in state._asdict().items() if name != "buffers"}
    return state._replace(buffers={}, **fields)


def as_real(position: Params, dtypes: Params) -> Params:
    """Fixed-point parameters in compute precision."""
    return jax.tree.map(to_real, position, dtypes)


@partial(jax.jit, static_argnames="dtypes")
def real_parameters(state: State, dtypes: Static) -> Params:
    """Elementary parameters of a fixed-point state, in compute precision."""
    return as_real(state.position, dtypes.tree)


def magnitudes(state: State) -> jax.Array:
    """Each group's largest |state| over all fields but the buffers: [groups]. NaN counts as infinite."""
    fields = [jax.tree.leaves(tree) for name, tree in state._asdict().items() if name != "buffers"]
    largest = [
        jnp.max(jnp.stack([jnp.max(jnp.abs(leaf), initial=0.0) for leaf in group]))
        for group in zip(*fields, strict=True)
    ]
    by_group = jnp.stack(largest)
    return jnp.where(jnp.isnan(by_group), jnp.inf, by_group)


def mismatched_bits(left: State, right: State) -> int:
    """Number of bits in which two fixed-point states differ."""
    return int(_differing_bits(left, right))


@jax.jit
def _differing_bits(left: State, right: State) -> jax.Array:
    def differing(one: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.sum(jax.lax.population_count(one.astype(jnp.int64) ^ other.astype(jnp.int64)))

    return sum(jax.tree.leaves(jax.tree.map(differing, left, right)), jnp.zeros((), jnp.int64))


def _restore(state: State, forgotten: dict[str, dict[int, jax.Array]]) -> State:
    for field, groups in forgotten.items():
        leaves, treedef = jax.tree.flatten(getattr(state, field))
        for group, value in groups.items():
            leaves[group] = value
        state = state._replace(**{field: treedef.unflatten(leaves)})
    return state
