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
    plans, state, adjoint = run.plans(), run.initial(), run.adjoint_at_rest()
    everywhere = size_in_bytes((run.course.schedule, run.course.drift, run.shapes, run.hyper))
    if len(plans) > 1:
        everywhere += 2 * size_in_bytes(state)  # what a stretch began with and what it ended in, for comparison
    tape = _longest_tape(run, state, plans)
    phases = [
        _forward_bytes(run, state, {}),
        size_in_bytes((state, adjoint)) + _outer_bytes(run),
        _backward_bytes(run, state, adjoint, {}),
        2 * size_in_bytes(state) + size_in_bytes(adjoint),  # comparing
        size_in_bytes(adjoint) + _collect_bytes(run, adjoint),
    ]
    if tape:
        taped = size_in_bytes(tape)
        phases.append(taped + _forward_bytes(run, state, tape))
        phases.append(2 * taped + _backward_bytes(run, state, adjoint, tape))  # being read, it exists twice
    host = max(plan.spilled_bytes for plan in plans) + (len(plans) - 1) * _integers_bytes(state)
    return Memory(everywhere + max(phases), 0 if run.engine.spill_to is not None else host)


def working_bytes(run: Reverse) -> int:
    """Of temporary buffers, state, information buffers and adjoint while running backward; no arguments, no results."""
    adjoint = run.adjoint_at_rest()
    return _backward_bytes(run, run.initial(), adjoint, {}) - size_in_bytes((adjoint.schedule, adjoint.hyper))


def size_in_bytes(tree: Any) -> int:
    """Of all arrays in a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _integers_bytes(state: State) -> int:
    leaves = jax.tree.leaves(state, is_leaf=lambda node: hasattr(node, "integers"))
    return sum(size_in_bytes(number.integers) for number in leaves)


def _longest_tape(run: Reverse, state: State, plans: list[Plan]) -> Tape:
    """Shapes of the largest tape that a segment needs."""

    def tape(segment: Segment) -> Any:
        return {
            place: jax.ShapeDtypeStruct(
                tape_shape(run.course.seeds, number_at(state, place), segment), jnp.float64
            )
            for place in segment.forgets
        }

    segments = [segment for plan in plans for segment in plan.segments]
    return max(map(tape, segments), key=size_in_bytes, default={})


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
