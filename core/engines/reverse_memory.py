"""What running backward takes, by XLA's analysis of its compiled programs, phase by phase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from core.engines.adjoint import Adjoint, FollowStep, collect
from core.engines.engine import Memory
from core.engines.inner import outer
from core.reversal.information_buffer import Plan, Segment
from core.reversal.optimizers import State
from core.reversal.segments import Tape, advance, rewind
from core.reversal.states import Static, number_at
from core.reversal.trajectory import tape_shape

if TYPE_CHECKING:
    from core.engines.there_and_back import Reverse


def memory_of(run: Reverse) -> Memory:
    """Bytes that a hypergradient needs at most, beyond its arguments."""
    state, adjoint = run.initial(), run.adjoint_at_rest()
    everywhere = size_in_bytes((run.course.schedule, run.course.drift, run.shapes, run.hyper))
    untaped = _phases(run, state, adjoint, {})
    on_disk = run.engine.spill_to is not None
    stretches: list[tuple[int, int]] = []
    plans = run.plans()
    for number, plan in enumerate(plans):
        tape = _longest_tape(run, state, plan)
        phases = untaped + (_phases(run, state, adjoint, tape) if tape else [])
        # what the stretch began with, and, but of the last one, what it must end in
        held = 0 if len(plans) == 1 else size_in_bytes(state) * (1 if number == len(plans) - 1 else 2)
        host = 0 if on_disk else plan.spilled_bytes + number * _integers_bytes(state)
        stretches.append((everywhere + held + max(phases), host))
    return Memory(
        max(device for device, _ in stretches), max(host for _, host in stretches), max(map(sum, stretches))
    )


def _phases(run: Reverse, state: State, adjoint: Adjoint, tape: Tape) -> list[int]:
    """Bytes on the device in each phase of going there and back, with this tape."""
    taped = size_in_bytes(tape)
    return [
        taped + _forward_bytes(run, state, tape),
        size_in_bytes((state, adjoint)) + _outer_bytes(run),
        2 * taped + _backward_bytes(run, state, adjoint, tape),  # being read, a tape exists twice
        2 * size_in_bytes(state) + size_in_bytes(adjoint) + _largest_bytes(state),  # comparing
        size_in_bytes(adjoint) + _collect_bytes(run, adjoint),
    ]


def working_bytes(run: Reverse) -> int:
    """Of temporary buffers, state, information buffers and adjoint while running backward; no arguments, no results."""
    adjoint = run.adjoint_at_rest()
    return _backward_bytes(run, run.initial(), adjoint, {}) - size_in_bytes((adjoint.schedule, adjoint.hyper))


def size_in_bytes(tree: Any) -> int:
    """Of all arrays in a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _largest_bytes(tree: Any) -> int:
    return max(map(size_in_bytes, jax.tree.leaves(tree)), default=0)


def _integers_bytes(state: State) -> int:
    leaves = jax.tree.leaves(state, is_leaf=lambda node: hasattr(node, "integers"))
    return sum(size_in_bytes(number.integers) for number in leaves)


def _longest_tape(run: Reverse, state: State, plan: Plan) -> Tape:
    """Shapes of the largest tape that a segment needs."""

    def tape(segment: Segment) -> Any:
        return {
            place: jax.ShapeDtypeStruct(
                tape_shape(run.course.seeds, number_at(state, place), segment), jnp.float64
            )
            for place in segment.forgets
        }

    return max(map(tape, plan.segments), key=size_in_bytes, default={})


def _forward_bytes(run: Reverse, state: State, tape: Tape) -> int:
    lowered = advance.lower(
        run.optimizer,
        Static(run.course.dtypes),
        run.gradient,
        run.course.schedule,
        run.course.drift,
        run.key,
        state,
        tape,
        0,
        run.num_steps,
        0,
        seeds=run.course.seeds,
    )
    return size_in_bytes(state) + _temporary(lowered)


def _backward_bytes(run: Reverse, state: State, adjoint: Adjoint, tape: Tape) -> int:
    lowered = rewind.lower(
        run.optimizer,
        Static(run.course.dtypes),
        Partial(FollowStep(run.optimizer, fused=True), run.problem, run.hyper),
        run.course.schedule,
        run.course.drift,
        run.key,
        state,
        adjoint,
        tape,
        0,
        run.num_steps,
        0,
        seeds=run.course.seeds,
    )
    return size_in_bytes((state, adjoint)) + _temporary(lowered)


def _outer_bytes(run: Reverse) -> int:
    shapes = jax.eval_shape(run.parameters, run.initial())
    lowered = outer.lower(run.problem, shapes, run.hyper, run.key, run.course.seeds)
    return size_in_bytes(shapes) + _temporary(lowered)


def _collect_bytes(run: Reverse, adjoint: Adjoint) -> int:
    lowered = collect.lower(
        run.problem, run.hyper, run.key, run.optimizer, run.num_steps, adjoint, run.hyper, run.course.seeds
    )
    return 2 * size_in_bytes(run.hyper) + _temporary(lowered)


def _temporary(lowered: Any) -> int:
    analysis: Any = lowered.compile().memory_analysis()  # None on backends that do not analyse
    return int(analysis.temp_size_in_bytes) if analysis is not None else 0
