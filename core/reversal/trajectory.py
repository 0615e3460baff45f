"""Run training forward, and run it backward to where it began, bit for bit.

Training runs in segments of the spill plan, each in chunks of about half a second. Between segments the host takes
the bits that buffers must shed, or gives them back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InvalidProblem
from core.reversal.drift import Drift
from core.reversal.information_buffer import (
    NUMBER_BITS,
    Factors,
    Plan,
    Segment,
    bits_in_use,
    narrowed,
    plan_spills,
    spill,
    unspill,
    widened,
)
from core.reversal.lifting import FORGETTING, OVERFLOW
from core.reversal.moves import Fixed
from core.reversal.optimizers import Optimizer, Params, State
from core.reversal.pace import Pace
from core.reversal.schedule import Schedule, hypers_of
from core.reversal.seeds import ONE, Seeds
from core.reversal.segments import Gradient, Observe, Tape, advance, rewind
from core.reversal.states import Static, number_at, numbers_of, with_number
from core.reversal.stepping import decay_factors
from core.reversal.stores import HostStore, Store
from core.reversal.unit_changes import UnitChange, change_units, restore_units


@dataclass
class Conduct:
    """How a trajectory is run; no bit of the result depends on it.

    Attributes:
        pace: kept from an earlier run of the same program, so that this one need not find it.
        interrupt: called between chunks; what it raises ends the run.
    """

    pace: Pace = field(default_factory=Pace)
    interrupt: Callable[[], None] = lambda: None


class Course(NamedTuple):
    """What a trajectory follows.

    Attributes:
        optimizer: whose steps are taken.
        dtypes: pytree like the parameters, the dtype in which the gradient takes each.
        schedule: prepared.
        drift: of units under this schedule.
        key: of the run; for several, keys [S].
        seeds: how several runs lie.
        unit_changes: {step: by how much units grow before it}; plans have a segment that begins there.
    """

    optimizer: Optimizer
    dtypes: Params
    schedule: Schedule
    drift: Drift
    key: jax.Array
    seeds: Seeds = ONE
    unit_changes: Mapping[int, UnitChange] = MappingProxyType({})


class Trajectory(NamedTuple):
    """What a forward run leaves: enough to run it backward, and nothing that grows on the device."""

    state: State  # fixed point, after the last step
    store: Store
    plan: Plan
    largest: np.ndarray  # |integer| of each field and group in that state; of several runs [S, fields, groups]

    @property
    def stored_bits(self) -> float:
        """Bits beyond the state that exist after the forward run: spilled ones and those still in the buffers."""
        return self.store.bits + _residual_bits(self.state)


class LeftRange(Exception):  # noqa: N818 - a signal between `forward` and its caller
    """A state left the fixed-point range. `first_departures` tells where."""


def plan_for(optimizer: Optimizer, schedule: Schedule, params: Params, num_steps: int) -> Plan:
    """Spill plan of the first `num_steps` steps of `schedule`."""
    return plan_spills(factors_of(optimizer, schedule, params, num_steps), sizes_of(params))


def sizes_of(params: Params) -> list[int]:
    """Elements in each group."""
    return [leaf.size for leaf in jax.tree.leaves(params)]


def factors_of(optimizer: Optimizer, schedule: Schedule, params: Params, num_steps: int) -> Factors:
    """Decay factors of a trajectory.

    Raises:
        InvalidProblem: the schedule makes one leave [0, 1].
    """
    shapes = Static(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params))
    least, most, kept, bits = jax.device_get(_factors(optimizer, schedule, shapes, num_steps))
    for name in least:
        wrong = ~((least[name] >= 0) & (most[name] <= 1))
        if wrong.any():
            step, group = (int(index) for index in np.argwhere(wrong)[0])
            low, high = least[name][step, group], most[name][step, group]
            outside = low if low < 0 else high
            raise InvalidProblem(
                f"step {step} of {optimizer.name} would scale {name} of group {group} by {outside:.6g}; "
                "a decay must lie in [0, 1]: check the schedule's signs, and lower step_size × weight_decay"
            )
    forgets = {name: factor < FORGETTING for name, factor in least.items()}
    return Factors(kept, forgets, bits, _uniform(optimizer, schedule, shapes.tree), num_steps)


def _uniform(optimizer: Optimizer, schedule: Schedule, shapes: Params) -> tuple[str, ...]:
    """Fields that decay by one factor in a group."""

    def of_step() -> dict[str, Params]:
        return decay_factors(
            optimizer,
            shapes,
            hypers_of(schedule.row(jnp.zeros((), int)), schedule.weights, jax.tree.structure(shapes)),
        )

    factors = jax.eval_shape(of_step)
    return tuple(name for name, tree in factors.items() if all(leaf.ndim == 0 for leaf in jax.tree.leaves(tree)))


@partial(jax.jit, static_argnames=("optimizer", "shapes", "num_steps"))
def _factors(optimizer: Optimizer, schedule: Schedule, shapes: Static, num_steps: int) -> Any:
    treedef = jax.tree.structure(shapes.tree)

    def at(step: jax.Array) -> Any:
        hypers = hypers_of(schedule.row(step), schedule.weights, treedef)
        leaves = {
            name: jax.tree.leaves(tree) for name, tree in decay_factors(optimizer, shapes.tree, hypers).items()
        }

        def per_group(measure: Callable[[jax.Array], jax.Array]) -> dict[str, jax.Array]:
            return {name: jnp.stack([measure(leaf) for leaf in each]) for name, each in leaves.items()}

        def least_kept(factor: jax.Array) -> jax.Array:
            return jnp.min(jnp.where(factor < FORGETTING, 1.0, factor), initial=1.0)

        def mean_bits(factor: jax.Array) -> jax.Array:
            return jnp.sum(jnp.minimum(_bits(factor), NUMBER_BITS)) / max(factor.size, 1)

        # a group may be empty
        least, most = partial(jnp.min, initial=jnp.inf), partial(jnp.max, initial=-jnp.inf)
        return per_group(least), per_group(most), per_group(least_kept), per_group(mean_bits)

    return jax.lax.map(at, jnp.arange(num_steps))


def _bits(factor: jax.Array) -> jax.Array:
    # single precision is enough for an account of bits, and a tenth of the time where there is a factor per weight
    return -jnp.log2(factor) if factor.ndim == 0 else -jnp.log2(factor.astype(jnp.float32)).astype(jnp.float64)


def forward(
    course: Course,
    gradient: Gradient,
    initial: State,
    plan: Plan,
    *,
    store: Store | None = None,
    conduct: Conduct | None = None,
) -> Trajectory:
    """Train from `initial` (consumed) along the plan.

    The range is checked every CHECK_EVERY steps and after each segment, since a check in every step would cost a pass
    over the state. Where a number leaves the range and comes back in between, either every sum was exact all the same,
    or running backward misses the start. `first_departures` tells the step.

    Args:
        course: what is followed.
        gradient: of the inner loss.
        initial: fixed-point state to start from.
        plan: from `plan_for`.
        store: what takes the bits; host memory unless given.
        conduct: how.

    Raises:
        LeftRange: a state is outside the fixed-point range.
    """
    store, conduct = HostStore() if store is None else store, conduct or Conduct()
    state, static, largest = initial, Static(course.dtypes), np.zeros(0)
    for segment in plan.segments:
        state = spilled(state, segment, store)
        state = change_units(state, course.unit_changes.get(segment.start, {}), store)
        tape = _blank_tape(course, state, segment)
        for start, stop in conduct.pace.timed(segment.start, segment.stop):
            conduct.interrupt()
            state, tape, at_end, most = advance(
                course.optimizer,
                static,
                gradient,
                course.schedule,
                course.drift,
                course.key,
                state,
                tape,
                start,
                stop,
                segment.start,
                seeds=course.seeds,
            )
            largest, checked = np.asarray(at_end), np.asarray(most)
            if stop == segment.stop or not np.isfinite(largest).all():
                checked = np.maximum(checked, largest)
            if not (checked < OVERFLOW).all():
                raise LeftRange
        for values in tape.values():
            store.push(narrowed(_cut(course, values, segment)))
    return Trajectory(state, store, plan, largest)


def spilled(state: State, segment: Segment, store: Store) -> State:
    """Ready for a segment: what its spills take off buffers goes to the store."""
    for place in segment.spills:
        number = number_at(state, place)
        high, low = spill(number.buffer)
        state = with_number(state, place, number._replace(buffer=high))
        store.push(low)
    return state


def _residual_bits(state: State) -> float:
    """Bits in the buffers, and those by which drift has lengthened the numbers themselves."""
    numbers = [number for tree in state for number in numbers_of(tree)]
    drifted = [(number.integers.size, np.min(number.scale)) for number in numbers if number.scale is not None]
    return float(bits_in_use([number.buffer for number in numbers if number.buffer is not None])) - sum(
        float(size * np.log2(scale)) for size, scale in drifted
    )


def backward(
    course: Course,
    observe: Observe,
    trajectory: Trajectory,
    carry: Any,
    *,
    conduct: Conduct | None = None,
) -> tuple[State, Any, dict[str, int]]:
    """Undo a forward run (consumed, with `carry`), step by step from the last to the first.

    Returns:
        The state before the first step, equal bit for bit to what `forward` was given; the carry; and {field: bits in
        which what was undone differs from what steps that forget it had left of it}, all of them 0 if `observe` gave
        the gradients of the forward run.
    """
    state, store, conduct = trajectory.state, trajectory.store, conduct or Conduct()
    missed: dict[str, int] = {}
    for segment in reversed(trajectory.plan.segments):
        tape = {
            place: _padded(course, store.pop(), number_at(state, place), segment)
            for place in reversed(segment.forgets)
        }
        for start, stop in conduct.pace.timed(segment.start, segment.stop, backward=True):
            conduct.interrupt()
            state, carry, differing = rewind(
                course.optimizer,
                Static(course.dtypes),
                observe,
                course.schedule,
                course.drift,
                course.key,
                state,
                carry,
                tape,
                start,
                stop,
                segment.start,
                seeds=course.seeds,
            )
            for place, bits in jax.device_get(differing).items():
                missed[place.field] = missed.get(place.field, 0) + int(np.sum(bits))
            jax.block_until_ready(carry)
        state = restore_units(state, course.unit_changes.get(segment.start, {}), store)
        for place in reversed(segment.spills):
            number = number_at(state, place)
            buffer = unspill(number.buffer, jnp.asarray(store.pop()))
            state = with_number(state, place, number._replace(buffer=buffer))
    return state, carry, missed


def tape_shape(seeds: Seeds, number: Fixed, segment: Segment) -> tuple[int, ...]:
    """Of a segment's tape of one number. Its length is a power of two: few lengths, few compilations."""
    length = 1 << (segment.stop - segment.start - 1).bit_length()
    shape, runs = number.integers.shape, _time_axis(seeds)
    return (*shape[:runs], length, *shape[runs:])


def _time_axis(seeds: Seeds) -> int:
    return 0 if seeds.count is None else 1


def _blank_tape(course: Course, state: State, segment: Segment) -> Tape:
    return {
        place: jnp.zeros(tape_shape(course.seeds, number_at(state, place), segment)) for place in segment.forgets
    }


def _cut(course: Course, values: jax.Array, segment: Segment) -> jax.Array:
    """The steps of a tape that were taken."""
    return jax.lax.slice_in_dim(values, 0, segment.stop - segment.start, axis=_time_axis(course.seeds))


def _padded(course: Course, stored: Any, number: Fixed, segment: Segment) -> jax.Array:
    """A tape as long as `_blank_tape` made it, from what was stored of it."""
    axis, steps = _time_axis(course.seeds), segment.stop - segment.start
    shape = tape_shape(course.seeds, number, segment)
    taken = widened(stored, (*shape[:axis], steps, *shape[axis + 1 :]))
    return jnp.pad(taken, [(0, shape[axis] - steps if dim == axis else 0) for dim in range(len(shape))])
