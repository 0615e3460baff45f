"""Run training forward, and run it backward to where it began, bit for bit.

Training runs in segments of the spill plan, each in chunks of about half a second. Between segments the host takes
the bits that buffers must shed, or gives them back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import FixedPointOverflow
from core.reversal.information_buffer import HostStore, Place, Plan, bits_in_use, plan_spills, spill, unspill
from core.reversal.lifting import LIMIT, UNIT
from core.reversal.optimizers import Optimizer, Params, State
from core.reversal.pace import Pace
from core.reversal.schedule import Schedule, hypers_of
from core.reversal.segments import Gradient, Observe, Static, advance, advance_checked, rewind


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
