"""The jitted loops that a trajectory is made of: some steps forward, and the same steps undone.

Their number of steps is dynamic, so that one compilation serves every schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from core.errors import InvalidOptimizer
from core.reversal.drift import Drift
from core.reversal.information_buffer import Place
from core.reversal.lifting import LIMIT, OVERFLOW
from core.reversal.optimizers import Optimizer, Params, State
from core.reversal.schedule import Schedule, hypers_of
from core.reversal.seeds import ONE, Seeds
from core.reversal.states import (
    Static,
    as_real,
    magnitudes,
    number_at,
    numbers_of,
    settle,
    taped,
    turning,
    unsettle,
    with_number,
)
from core.reversal.stepping import TreeHypers, rest, step, unstep

Gradient = Callable[[Params, jax.Array, jax.Array], Params]
"""(params in compute dtype, step, key) → gradient. A `jax.tree_util.Partial`, so that arrays in it are arguments."""

Observe = Callable[[Any, jax.Array, Params, jax.Array], tuple[Params, Callable[..., Any]]]
"""(carry, step, params, key) → (gradient at params, follow); a `Partial`. The gradient must have the bits that the
forward pass had. `follow(real state before the step, row, weights) → carry` is called once the step is undone."""

CHECK_EVERY = 64  # steps after which numbers are compared with their range: by steps, so that no clock decides
Tape = dict[Place, jax.Array]
"""Fields that a segment's steps forget: their integers before each step, [steps, ...]."""


@partial(
    jax.jit, static_argnames=("optimizer", "dtypes", "seeds"), donate_argnames=("state", "tape"), keep_unused=True
)
def advance(
    optimizer: Optimizer,
    dtypes: Static,
    gradient: Gradient,
    schedule: Schedule,
    drift: Drift,
    key: jax.Array,
    state: State,
    tape: Tape,
    start: int,
    stop: int,
    origin: int,
    seeds: Seeds = ONE,
) -> tuple[State, Tape, jax.Array, jax.Array]:
    """Take steps [start, stop), noting on the tape, which begins at step `origin`, what they forget.

    Returns:
        The state, the tape, the largest |integer| of each field and group at the end, [fields, groups], and the largest
        after any step whose number is a multiple of CHECK_EVERY.
    """

    def run(
        gradient: Gradient,
        schedule: Schedule,
        drift: Drift,
        key: jax.Array,
        state: State,
        tape: Tape,
        *steps: jax.Array,
    ) -> tuple[State, Tape, jax.Array, jax.Array]:
        start, stop, origin = steps

        def take(number: jax.Array, both: tuple[State, Tape]) -> tuple[State, Tape]:
            state, tape = both
            before = {place: number_at(state, place).integers for place in tape}
            tape = {
                place: jax.lax.dynamic_update_index_in_dim(values, before[place], number - origin, 0)
                for place, values in tape.items()
            }
            return _take(
                optimizer, dtypes.tree, gradient, schedule, drift, key, taped(state, before), number
            ), tape

        def leg(
            reached: jax.Array, state: State, tape: Tape, most: jax.Array
        ) -> tuple[jax.Array, State, Tape, jax.Array]:
            check = (reached // CHECK_EVERY + 1) * CHECK_EVERY
            end = jnp.minimum(jnp.minimum(stop, drift.stop[reached]), check)
            state, tape = jax.lax.fori_loop(reached, end, take, (settle(drift, state, reached), tape))
            most = jax.lax.cond(end == check, lambda: jnp.maximum(most, magnitudes(state)), lambda: most)
            return end, state, tape, most

        none = jnp.zeros(magnitudes(state).shape)
        _, state, tape, most = jax.lax.while_loop(
            lambda carry: carry[0] < stop, lambda carry: leg(*carry), (start, state, tape, none)
        )
        return state, tape, magnitudes(state), most

    axes = (None, None, None, 0, 0, 0, None, None, None)
    return seeds.map(run, axes)(gradient, schedule, drift, key, state, tape, start, stop, origin)


@partial(jax.jit, static_argnames=("optimizer", "dtypes", "forgets", "seeds"), donate_argnames=("state",))
def advance_checked(
    optimizer: Optimizer,
    dtypes: Static,
    gradient: Gradient,
    schedule: Schedule,
    drift: Drift,
    key: jax.Array,
    state: State,
    start: int,
    stop: int,
    forgets: tuple[Place, ...] = (),
    seeds: Seeds = ONE,
) -> tuple[State, jax.Array, jax.Array]:
    """Take steps [start, stop) as `advance` does, each run up to its first that leaves the range.

    Returns:
        The state; the number of the step reached, below `stop` if that left the range; and the largest |integer| of
        each field and group in that step.
    """

    def run(
        gradient: Gradient, schedule: Schedule, drift: Drift, key: jax.Array, state: State, *steps: jax.Array
    ) -> tuple[State, jax.Array, jax.Array]:
        start, stop = steps

        def take(
            number: jax.Array, carry: tuple[State, jax.Array, jax.Array]
        ) -> tuple[State, jax.Array, jax.Array]:
            before, reached, largest = carry
            state = settle(drift, before, number)
            state = taped(state, {place: number_at(state, place).integers for place in forgets})
            state = _take(optimizer, dtypes.tree, gradient, schedule, drift, key, state, number)
            now, goes_on = magnitudes(state), reached == number
            state, largest = jax.tree.map(
                lambda new, old: jnp.where(goes_on, new, old), (state, now), (before, largest)
            )
            return state, jnp.where(goes_on & jnp.all(now < OVERFLOW), number + 1, reached), largest

        nothing = jnp.zeros(magnitudes(state).shape)
        return jax.lax.fori_loop(start, stop, take, (state, jnp.asarray(start), nothing))

    return seeds.map(run, (None, None, None, 0, 0, None, None))(gradient, schedule, drift, key, state, start, stop)


def _take(
    optimizer: Optimizer,
    dtypes: Params,
    gradient: Gradient,
    schedule: Schedule,
    drift: Drift,
    key: jax.Array,
    state: State,
    number: jax.Array,
) -> State:
    grads = isolated(gradient, as_real(state.position, dtypes), number, key)
    state = turning(state, {field: scales[number] for field, scales in drift.after.items()})
    return step(optimizer, state, _exact(grads), _hypers(schedule, number, dtypes))


def isolated(gradient: Gradient, params: Params, number: jax.Array, key: jax.Array) -> Params:
    """The gradient, compiled apart from its surroundings, so that it has the same bits wherever this is called.

    A branch is a computation of its own, into which nothing is fused. Barriers are not enough: XLA drops them before
    its last fusions, and a multiplication at the gradient's end then joins a sum of the caller's, or does not.
    """
    grads = jax.lax.cond(
        number >= 0,
        gradient,
        lambda params, number, key: jax.tree.map(jnp.zeros_like, params),
        params,
        number,
        key,
    )
    # barriers are still needed: without them XLA on CPU recomputes what comes from here inside every consumer
    return jax.lax.optimization_barrier(grads)


@partial(
    jax.jit,
    static_argnames=("optimizer", "dtypes", "seeds"),
    donate_argnames=("state", "carry"),
    keep_unused=True,
)
def rewind(
    optimizer: Optimizer,
    dtypes: Static,
    observe: Observe,
    schedule: Schedule,
    drift: Drift,
    key: jax.Array,
    state: State,
    carry: Any,
    tape: Tape,
    start: jax.Array,
    stop: jax.Array,
    origin: jax.Array,
    seeds: Seeds = ONE,
) -> tuple[State, Any, dict[Place, jax.Array]]:
    """Undo steps [start, stop), the last one first. Forgotten fields are restored from the tape.

    Returns:
        The state, the carry, and for each place on the tape the bits in which what was undone differs from what the
        steps left of the value restored.
    """

    def run(
        observe: Observe,
        schedule: Schedule,
        drift: Drift,
        key: jax.Array,
        state: State,
        carry: Any,
        tape: Tape,
        *steps: jax.Array,
    ) -> tuple[State, Any, dict[Place, jax.Array]]:
        start, stop, origin = steps

        def undo(iteration: jax.Array, leg: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
            end, (state, carry, differing) = leg
            number = end - 1 - iteration
            state = taped(
                turning(state, drift.before(number)),
                {
                    place: jax.lax.dynamic_index_in_dim(values, number - origin, 0, keepdims=False)
                    for place, values in tape.items()
                },
            )
            follow: list[Callable[..., Any]] = []

            def gradient_at(position: Params) -> Params:
                params = jax.lax.optimization_barrier(as_real(position, dtypes.tree))
                grads, then = observe(carry, number, params, key)
                follow.append(then)
                return _exact(grads)

            state = unstep(optimizer, state, gradient_at, _hypers(schedule, number, dtypes.tree))
            _has_undone_decays(optimizer, state)
            for place in tape:
                undone = number_at(state, place)
                differing = differing | {place: differing[place] + undone.missed}
                state = with_number(state, place, undone._replace(missed=None))
            before = jax.lax.optimization_barrier(type(state)(*(as_real(field, dtypes.tree) for field in state)))
            return end, (state, follow[0](before, schedule.row(number), schedule.weights), differing)

        def leg(reached: jax.Array, all_three: Any) -> tuple[jax.Array, Any]:
            first = jnp.maximum(start, drift.first[reached - 1])
            _, undone = jax.lax.fori_loop(0, reached - first, undo, (reached, all_three))
            state, *rest = undone
            return first, (unsettle(drift, state, first), *rest)

        none_yet = {place: jnp.zeros((), jnp.int64) for place in tape}
        _, undone = jax.lax.while_loop(
            lambda carry: carry[0] > start, lambda carry: leg(*carry), (stop, (state, carry, none_yet))
        )
        return undone

    axes = (None, None, None, 0, 0, 0, 0, None, None, None)
    return seeds.map(run, axes)(observe, schedule, drift, key, state, carry, tape, start, stop, origin)


def _has_undone_decays(optimizer: Optimizer, state: State) -> None:
    for field, tree in state._asdict().items():
        if any(one.turned is not None or one.taped is not None for one in numbers_of(tree)):
            raise InvalidOptimizer(f"unstep of {optimizer.name} never undoes the decay of {field}")


def _hypers(schedule: Schedule, number: jax.Array, like: Params) -> TreeHypers:
    return hypers_of(schedule.row(number), schedule.weights, jax.tree.structure(like))


def _exact(gradient: Params) -> Params:
    """A gradient as the optimizer takes it in."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), gradient)


def only_gradient(gradient: Gradient) -> Observe:
    """An observer for running backward without an adjoint: it carries nothing."""
    return jax.tree_util.Partial(_only_gradient, gradient)


def _only_gradient(gradient: Gradient, carry: Any, step: jax.Array, params: Params, key: jax.Array) -> Any:
    return isolated(gradient, params, step, key), lambda before, row, weights: carry


@partial(jax.jit, static_argnames=("optimizer", "steps", "seeds"))
def float_magnitudes(
    optimizer: Optimizer,
    gradient: Gradient,
    schedule: Schedule,
    key: jax.Array,
    params: Params,
    steps: int,
    seeds: Seeds = ONE,
) -> dict[str, list[jax.Array]]:
    """Largest |value| over the first `steps` steps in ordinary floats: {field: one for each group, or for each weight}.

    Steps from which the weights leave the fixed-point range tell nothing: training that diverges has no scale.
    """

    def run(gradient: Gradient, schedule: Schedule, key: jax.Array, params: Params) -> dict[str, list[jax.Array]]:
        dtype = jnp.result_type(*jax.tree.leaves(params))

        def take(number: jax.Array, both: Any) -> Any:
            before, largest = both
            grads = jax.lax.optimization_barrier(gradient(before.position, number, key))
            hypers = jax.tree.map(lambda leaf: leaf.astype(dtype), _hypers(schedule, number, params))
            state = step(optimizer, before, grads, hypers)
            state = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), state, before)
            now = _largest(optimizer, state)
            tells = jnp.all(jnp.stack(now["position"]) < LIMIT)
            return state, jax.tree.map(lambda old, new: jnp.where(tells, jnp.maximum(old, new), old), largest, now)

        state = rest(optimizer, params)
        return jax.lax.fori_loop(0, steps, take, (state, _largest(optimizer, state)))[1]

    return seeds.map(run, (None, None, 0, 0))(gradient, schedule, key, params)


def _largest(optimizer: Optimizer, state: State) -> dict[str, list[jax.Array]]:
    def measure(field: str, leaf: jax.Array) -> jax.Array:
        size = jnp.abs(leaf)
        return size if field in optimizer.unit_per_weight else jnp.max(size, initial=0.0).astype(jnp.float64)

    return {
        field: [measure(field, leaf) for leaf in jax.tree.leaves(tree)] for field, tree in state._asdict().items()
    }
