"""Training taken forward and back to where it began, with the adjoint on the way back, and what that proves."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from core.engines.adjoint import Adjoint, FollowStep, adjoint_at_rest, collect
from core.engines.certificate import Certificate
from core.engines.inner import outer
from core.engines.problem import Hyper, Params, Problem
from core.engines.result import Hypergradient
from core.engines.training import Run
from core.reversal.information_buffer import Plan
from core.reversal.moves import is_number
from core.reversal.optimizers import Optimizer, State
from core.reversal.states import Static, copied, mismatched_bits, without_buffers
from core.reversal.stores import Store
from core.reversal.trajectory import Trajectory, backward, sizes_of
from core.reversal.unit_changes import with_units_before

if TYPE_CHECKING:
    from core.engines.reversible import Reversible

_PROBE_STEPS = 4


class Reverse(Run):
    """Training runs, taken forward and back in one mode or another."""

    def __init__(
        self,
        problem: Problem,
        hyper: Hyper,
        optimizer: Optimizer,
        num_steps: int,
        key: jax.Array,
        engine: Reversible,
    ) -> None:
        super().__init__(problem, hyper, optimizer, num_steps, key, engine.interrupt)
        self.engine = engine

    def probe(self, mode: str) -> bool:
        """Whether a few steps come back exactly in this mode."""

        def few() -> Back:
            plan = self.plan(0, min(_PROBE_STEPS, self.num_steps))
            return ThereAndBack(self, mode).and_back([plan], lambda _: self.adjoint_at_rest())

        back = self.in_range(few)
        return not any(back.mismatched.values())

    def attempt(self, mode: str) -> list[Hypergradient]:
        """The hypergradients in one mode, with their certificate, exact or not."""
        ended: dict[str, Any] = {}

        def outer_adjoint(params: Params) -> Adjoint:
            value, (d_params, d_hyper) = outer(self.problem, params, self.hyper, self.key, self.course.seeds)
            ended.update(value=value, params=params, d_hyper=d_hyper)
            rest = self.adjoint_at_rest()
            return rest._replace(state=rest.state._replace(position=d_params))

        def there_and_back() -> Back:
            return ThereAndBack(self, mode).and_back(self.plans(), outer_adjoint)

        back = self.in_range(there_and_back)
        certificate = self._certificate(mode, back)
        gradient = collect(
            self.problem,
            self.hyper,
            self.key,
            self.optimizer,
            self.num_steps,
            back.adjoint,
            ended["d_hyper"],
            self.course.seeds,
        )
        each = self.course.seeds.each((ended["value"], gradient, ended["params"]))
        return [Hypergradient(value, gradient, params, certificate) for value, gradient, params in each]

    def _certificate(self, mode: str, back: Back) -> Certificate:
        numbers = sum(sizes_of(self.shapes)) * (self.course.seeds.count or 1) * self.num_steps
        dtypes = sorted({jnp.dtype(leaf.dtype).name for leaf in jax.tree.leaves(self.shapes)})
        return Certificate(
            exact=not any(back.mismatched.values()),
            engine=self.engine.name,
            mode=mode,
            mismatched_bits=sum(back.mismatched.values()),
            mismatched_bits_by_field=back.mismatched,
            stored_bits_per_param_step=back.stored_bits / numbers,
            bound_bits_per_param_step=self.plan().bound_bits / numbers,
            unit_exponents={
                name: [int(np.max(column)) for column in columns] for name, columns in self.exponents.items()
            },
            unit_changes=[
                {
                    "step": step,
                    "field": place.field,
                    "group": place.group,
                    "bits": int(bits.flat[np.argmax(np.abs(bits))]),
                }
                for step, change in sorted(self.course.unit_changes.items())
                for place, bits in change.items()
            ],
            runs=self.course.seeds.count or 1,
            exact_for=self.engine.exact_for,
            optimizer=self.optimizer.name,
            compute=", ".join(dtypes)
            + f"; matrix products: {jax.config.jax_default_matmul_precision or 'default'}",  # type: ignore[attr-defined]
        )

    def adjoint_at_rest(self) -> Adjoint:
        """Zero cotangents."""
        key = self.key if self.key.ndim == 0 else self.key[0]
        return adjoint_at_rest(
            self.optimizer,
            Static(self.shapes),
            self.problem,
            self.hyper,
            key,
            self.course.schedule,
            self.num_steps,
            self.course.seeds,
        )

    def plans(self) -> list[Plan]:
        """Spill plans of the stretches between checkpoints."""
        stretches = min(self.engine.checkpoints, self.num_steps)
        bounds = [self.num_steps * number // stretches for number in range(stretches + 1)]
        return [self.plan(start, stop) for start, stop in pairwise(bounds)]


class Back(NamedTuple):
    """What running backward to the start leaves."""

    adjoint: Adjoint
    mismatched: dict[str, int]  # bits, by field
    stored_bits: float  # at most at any time


class ThereAndBack:
    """A training run in one mode, in stretches between checkpoints."""

    def __init__(self, run: Reverse, mode: str) -> None:
        self.run = run
        self.observe = Partial(FollowStep(run.optimizer, mode == "fused"), run.problem, run.hyper)

    def and_back(self, plans: list[Plan], adjoint_at: Callable[[Params], Adjoint]) -> Back:
        """Train along the plans, one after another, and undo it, last one first.

        Args:
            plans: of stretches from the start on.
            adjoint_at: final parameters → cotangents to carry backward.
        """
        run = self.run
        if len(plans) == 1:
            trajectory = run.forward(plans[0], run.initial(), run.engine.store())
            stored_bits = trajectory.stored_bits
            state, adjoint, missed = self._undo(trajectory, lambda ended: adjoint_at(run.parameters(ended.state)))
            return Back(adjoint, _sum(mismatched_bits(state, run.initial()), missed), stored_bits)
        return self._through_checkpoints(plans, adjoint_at)

    def _through_checkpoints(self, plans: list[Plan], adjoint_at: Callable[[Params], Adjoint]) -> Back:
        run, checkpoints = self.run, self.run.engine.store()
        mismatched: list[dict[str, int]] = []

        def there_and_back(plan: Plan, began: State, adjoint_at: Callable[[Trajectory], Adjoint]) -> Back:
            trajectory = run.forward(plan, copied(began), run.engine.store())
            stored_bits = trajectory.stored_bits
            state, adjoint, missed = self._undo(trajectory, adjoint_at)
            mismatched.extend((mismatched_bits(state, began), missed))
            return Back(adjoint, {}, stored_bits)

        try:
            state = run.forward_only(plans[:-1], checkpoints.push)
            back = there_and_back(plans[-1], state, lambda ended: adjoint_at(run.parameters(ended.state)))
            most = back.stored_bits
            for plan in reversed(plans[:-1]):
                began, adjoint = self._checkpoint(checkpoints, state, plan), back.adjoint

                def arrives(ended: Trajectory, state: State = state, adjoint: Adjoint = adjoint) -> Adjoint:
                    mismatched.append(mismatched_bits(without_buffers(copied(ended.state)), state))
                    return adjoint

                back = there_and_back(plan, began, arrives)
                most, state = max(most, back.stored_bits), began
            return back._replace(mismatched=_sum(*mismatched), stored_bits=most + checkpoints.bits)
        finally:
            checkpoints.close()

    def _undo(
        self, trajectory: Trajectory, adjoint_at: Callable[[Trajectory], Adjoint]
    ) -> tuple[State, Adjoint, dict[str, int]]:
        try:
            adjoint = adjoint_at(trajectory)
            return backward(
                self.run.course,
                self.observe,
                trajectory,
                adjoint,
                conduct=self.run.conduct(self.run.habits.backward),
            )
        finally:
            trajectory.store.close()

    def _checkpoint(self, checkpoints: Store, like: State, plan: Plan) -> State:
        """The checkpoint pushed last, where `plan` begins, with empty buffers."""
        numbers, treedef = jax.tree.flatten(like, is_leaf=is_number)
        popped = [jnp.asarray(checkpoints.pop()) for _ in numbers]
        restored = [
            number._replace(integers=integers) for number, integers in zip(numbers, reversed(popped), strict=True)
        ]
        state = treedef.unflatten(restored)
        for segment in plan.segments:
            state = with_units_before(state, self.run.course.unit_changes.get(segment.start, {}))
        return without_buffers(copied(self.run.rescaled(state, plan.segments[0].start)))


def _sum(*counts: dict[str, int]) -> dict[str, int]:
    return {name: sum(one.get(name, 0) for one in counts) for count in counts for name in count}
