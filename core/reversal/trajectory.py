"""Run training forward, and run it backward to where it began, bit for bit.

Training runs in segments, each one jitted loop with a dynamic number of steps: one compilation serves every
schedule. Between segments the host takes the bits that buffers must shed, or gives them back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import FixedPointOverflow
from core.reversal.information_buffer import (
    HostStore,
    Place,
    Plan,
    bits_in_use,
    plan_spills,
    spill,
    unspill,
)
from core.reversal.lifting import LIMIT, OVERFLOW, UNIT, to_real
from core.reversal.optimizers import Optimizer, Params, State
from core.reversal.schedule import Schedule, hypers_of

Gradient = Callable[[Params, jax.Array], Params]
"""(params in compute dtype, step) → gradient. A `jax.tree_util.Partial`, so that arrays in it are arguments."""

Observe = Callable[[Any, jax.Array, Params], tuple[Params, Callable[..., Any]]]
"""(carry, step, params) → (gradient at params, follow); a `Partial`. The gradient must have the bits that the
forward pass had. `follow(real state before the step, row, weights) → carry` is called once the step is undone."""


class Pace:
    """How many steps to hand to the device at a time, so that each call returns within about `seconds`."""

    def __init__(self, seconds: float = 0.5) -> None:
        self.seconds = seconds
        self.steps = 1

    def timed(self, start: int, stop: int, *, backward: bool = False) -> Iterator[tuple[int, int]]:
        """Cut [start, stop) into chunks, last chunk first if `backward`; doubles while chunks are short."""
        while start < stop:
            low, high = (
                (max(start, stop - self.steps), stop) if backward else (start, min(stop, start + self.steps))
            )
            began = time.perf_counter()
            yield low, high
            elapsed = time.perf_counter() - began
            if elapsed < self.seconds / 2 and high - low == self.steps:
                self.steps *= 2
            elif elapsed > self.seconds:
                self.steps = max(1, self.steps // 2)
            start, stop = (start, low) if backward else (high, stop)


class Trajectory(NamedTuple):
    """What a forward run leaves: enough to run it backward, and nothing that grows on the device."""

    state: State  # fixed point, after the last step
    store: HostStore
    plan: Plan
    residual_bits: float  # that the buffers on the device still hold

    @property
    def stored_bits(self) -> float:
        """Bits beyond (w, v) that exist after the forward run: spilled ones and those still in the buffers."""
        return self.store.bits + self.residual_bits


def plan_for(optimizer: Optimizer, schedule: Schedule, params: Params, num_steps: int) -> Plan:
    """Spill plan of `schedule`."""
    smallest, bits = _factor_bounds(optimizer, schedule, params, num_steps)
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    return plan_spills(jax.tree.map(np.asarray, smallest), jax.tree.map(np.asarray, bits), sizes, num_steps)


@partial(jax.jit, static_argnames=("optimizer", "num_steps"))
def _factor_bounds(optimizer: Optimizer, schedule: Schedule, params: Params, num_steps: int) -> Any:
    """Smallest decay factor, and mean of log2(1/K), of each step and group, as {field: [T, groups]}."""
    treedef = jax.tree.structure(params)

    def bounds(step: jax.Array) -> Any:
        decays = optimizer.decays(hypers_of(schedule.row(step), schedule.weights, treedef))
        leaves = {field: jax.tree.leaves(factors) for field, factors in decays.items()}
        return (
            {field: jnp.stack([jnp.min(leaf) for leaf in each]) for field, each in leaves.items()},
            {field: jnp.stack([jnp.mean(-jnp.log2(leaf)) for leaf in each]) for field, each in leaves.items()},
        )

    return jax.lax.map(bounds, jnp.arange(num_steps))


def forward(
    optimizer: Optimizer,
    gradient: Gradient,
    schedule: Schedule,
    initial: State,
    plan: Plan,
    *,
    dtypes: Params,
    pace: Pace | None = None,
    interrupt: Callable[[], None] = lambda: None,
) -> Trajectory:
    """Train from `initial` (consumed) along the plan.

    The range is checked between chunks only, since a check in every step would cost a pass over the state. What
    leaves the range and comes back in between cannot go unnoticed: either every sum was exact all the same, or
    running backward misses the start. `locate_overflow` tells the step.

    Args:
        optimizer: whose `step` is taken.
        gradient: of the inner loss.
        schedule: in normal form.
        initial: fixed-point state to start from.
        plan: from `plan_for`.
        dtypes: pytree like the parameters, the dtype in which `gradient` takes each.
        pace: kept from an earlier run of the same program, so that this one need not find it.
        interrupt: called between chunks; what it raises ends the run.

    Raises:
        LeftRange: a state is outside the fixed-point range.
    """
    state, store = initial, HostStore()
    pace = pace or Pace()
    for segment in plan.segments:
        for place in segment.spills:
            high, low = spill(_get(state.buffers, place))
            state = state._replace(buffers=_put(state.buffers, place, high))
            store.push(low)
        for place in segment.forgets:
            store.push(jnp.copy(_get(state._asdict(), place)))
        for start, stop in pace.timed(segment.start, segment.stop):
            interrupt()
            state, in_range = advance(optimizer, Static(dtypes), gradient, schedule, state, start, stop)
            if not in_range:
                raise LeftRange
    return Trajectory(state, store, plan, float(bits_in_use(state.buffers)))


def locate_overflow(
    optimizer: Optimizer,
    gradient: Gradient,
    schedule: Schedule,
    initial: State,
    num_steps: int,
    *,
    dtypes: Params,
    names: list[str],
    interrupt: Callable[[], None] = lambda: None,
) -> None:
    """Train again from `initial` (consumed), checking every step; return when no state leaves the range.

    Buffers are left to themselves: what they hold does not matter here.

    Raises:
        FixedPointOverflow: names the first step and group that left the range.
    """
    state, pace = initial, Pace()
    for start, stop in pace.timed(0, num_steps):
        interrupt()
        state, reached, largest = advance_checked(
            optimizer, Static(dtypes), gradient, schedule, state, start, stop
        )
        if reached < stop:
            group = int(np.argmax(largest))
            raise FixedPointOverflow(
                step=int(reached), group=names[group], largest=float(largest[group]) * UNIT, limit=LIMIT
            )


class LeftRange(Exception):  # noqa: N818 - a signal between `forward` and its caller
    """A state left the fixed-point range somewhere in the last chunk."""


def backward(
    optimizer: Optimizer,
    observe: Observe,
    schedule: Schedule,
    trajectory: Trajectory,
    carry: Any,
    *,
    dtypes: Params,
    pace: Pace | None = None,
    interrupt: Callable[[], None] = lambda: None,
) -> tuple[State, Any]:
    """Undo a forward run (consumed, with `carry`), step by step from the last to the first.

    Returns:
        The state before the first step, equal bit for bit to what `forward` was given; and the carry.
    """
    state, store = trajectory.state, trajectory.store
    pace = pace or Pace()
    for segment in reversed(trajectory.plan.segments):
        forgotten = {place: store.pop() for place in reversed(segment.forgets)}
        for start, stop in pace.timed(segment.start, segment.stop, backward=True):
            interrupt()
            state, carry = rewind(
                optimizer, Static(dtypes), observe, schedule, state, carry, start, stop, _by_field(forgotten)
            )
            jax.block_until_ready(carry)
        for place in reversed(segment.spills):
            low = store.pop()
            state = state._replace(
                buffers=_put(state.buffers, place, unspill(_get(state.buffers, place), jnp.asarray(low)))
            )
    return state, carry


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


def _get(fields: dict[str, Params], place: Place) -> jax.Array:
    return jax.tree.leaves(fields[place.field])[place.group]


def _put(fields: dict[str, Params], place: Place, value: jax.Array) -> dict[str, Params]:
    leaves, treedef = jax.tree.flatten(fields[place.field])
    leaves[place.group] = value
    return fields | {place.field: treedef.unflatten(leaves)}


def _by_field(forgotten: dict[Place, Any]) -> dict[str, dict[int, Any]]:
    fields: dict[str, dict[int, Any]] = {}
    for place, value in forgotten.items():
        fields.setdefault(place.field, {})[place.group] = value
    return fields


def _restore(state: State, forgotten: dict[str, dict[int, jax.Array]]) -> State:
    for field, groups in forgotten.items():
        leaves, treedef = jax.tree.flatten(getattr(state, field))
        for group, value in groups.items():
            leaves[group] = value
        state = state._replace(**{field: treedef.unflatten(leaves)})
    return state
