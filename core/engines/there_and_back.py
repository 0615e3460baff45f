"""Training taken forward and back to where it began, with the adjoint on the way back, and what that proves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from core.engines.adjoint import Adjoint, FollowStep, adjoint_at_rest, collect
from core.engines.certificate import Certificate
from core.engines.inner import outer
from core.engines.kept import Kept, Record, digest
from core.engines.problem import Hyper, Params, Problem
from core.engines.result import Hypergradient
from core.engines.training import Run
from core.errors import FixedPointOverflow, UncertifiedGradient
from core.reversal.information_buffer import Plan
from core.reversal.moves import is_number
from core.reversal.optimizers import Optimizer, State
from core.reversal.states import Static, copied, mismatched_bits, without_buffers
from core.reversal.stores import Store
from core.reversal.trajectory import Trajectory, backward, sizes_of
from core.reversal.unit_changes import with_units_after, with_units_before

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
        self.kept = Kept(None)
        if engine.keep_in is not None and engine.checkpoints > 1:
            decisive = (hyper, key, num_steps, engine.checkpoints, self.course.seeds.count, optimizer.name)
            self.kept = Kept(engine.keep_in / digest(decisive, jax.tree.leaves(self.exponents)))
            self.changes = self.kept.latest_changes()
            self._follow_changes()

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

        try:
            back = self.in_range(there_and_back)
        except (FixedPointOverflow, UncertifiedGradient):
            self.kept.clear()
            raise
        self.kept.clear()  # it has served, or, where bits differ, may be why
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

    def make_room(self) -> bool:
        """See `Run`."""
        found = super().make_room()
        if found:
            self.kept.clear()  # training goes another way from now on
        return found

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


class Way(NamedTuple):
    """How far the way back through checkpoints has come."""

    reached: int  # number of the stretch that was undone last
    back: Back  # so far
    params: Params  # that training ended with
    turned_with: str  # digest of the adjoint that the way back began with


class ThereAndBack:
    """A training run in one mode, in stretches between checkpoints."""

    def __init__(self, run: Reverse, mode: str) -> None:
        self.run, self._back = run, f"back {mode}"
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
        try:
            record = run.kept.load(self._back)
            last = len(plans) - 1 if record is None else record.facts["reached"]
            state, at = self._kept_starts(plans, checkpoints, last)
            way = self._kept_way(record, at, adjoint_at)
            if way is None:
                while at < len(plans) - 1:
                    state, at = run.forward_only([plans[at]], checkpoints.push, state), at + 1
                    run.kept.save(f"start {at}", run.changes, {"integers": _integers(state)})
                way = self._turn(plans[-1], at, state, adjoint_at)
            while way.reached > 0:
                self._keep_way(way)
                began = self._checkpoint(checkpoints, state, plans[way.reached - 1])
                way, state = self._further(plans[way.reached - 1], way, began, state), began
            in_checkpoints = 8 * sum(one.nbytes for one in _integers(state)) * (len(plans) - 1)
            return way.back._replace(stored_bits=way.back.stored_bits + in_checkpoints)
        finally:
            checkpoints.close()

    def _turn(self, plan: Plan, number: int, began: State, adjoint_at: Callable[[Params], Adjoint]) -> Way:
        """The last stretch, there and back."""
        ends: list[tuple[Params, str]] = []

        def ended(trajectory: Trajectory) -> Adjoint:
            params = self.run.parameters(trajectory.state)
            adjoint = adjoint_at(params)
            ends.append((params, digest(adjoint.state.position)))
            return adjoint

        back = self._stretch(plan, began, ended)
        return Way(number, back, *ends[0])

    def _further(self, plan: Plan, way: Way, began: State, arrives_at: State) -> Way:
        """The stretch before those that were undone, there and back."""
        missed: dict[str, int] = {}

        def arrives(ended: Trajectory) -> Adjoint:
            missed.update(mismatched_bits(without_buffers(copied(ended.state)), arrives_at))
            return way.back.adjoint

        back = self._stretch(plan, began, arrives)
        mismatched = _sum(way.back.mismatched, back.mismatched, missed)
        most = max(way.back.stored_bits, back.stored_bits)
        return way._replace(reached=way.reached - 1, back=Back(back.adjoint, mismatched, most))

    def _stretch(self, plan: Plan, began: State, adjoint_at: Callable[[Trajectory], Adjoint]) -> Back:
        trajectory = self.run.forward(plan, copied(began), self.run.engine.store())
        stored_bits = trajectory.stored_bits
        state, adjoint, missed = self._undo(trajectory, adjoint_at)
        return Back(adjoint, _sum(mismatched_bits(state, began), missed), stored_bits)

    def _keep_way(self, way: Way) -> None:
        arrays = {"params": jax.tree.leaves(way.params), "adjoint": jax.tree.leaves(way.back.adjoint)}
        facts = way._asdict() | way.back._asdict()
        told = {name: facts[name] for name in ("reached", "turned_with", "mismatched", "stored_bits")}
        self.run.kept.save(self._back, self.run.changes, arrays, **told)

    def _kept_way(self, record: Record | None, at: int, adjoint_at: Callable[[Params], Adjoint]) -> Way | None:
        """How far the way back has come, if it began with this outer loss and its starts are all there."""
        if record is None or record.facts["reached"] != at:
            return None
        told, params = record.facts, _like(self.run.shapes, record.arrays["params"])
        if digest(adjoint_at(params).state.position) != told["turned_with"]:
            return None
        adjoint = _like(self.run.adjoint_at_rest(), record.arrays["adjoint"])
        return Way(at, Back(adjoint, told["mismatched"], told["stored_bits"]), params, told["turned_with"])

    def _kept_starts(self, plans: list[Plan], checkpoints: Store, most: int) -> tuple[State, int]:
        """What the last kept stretch begins with, and its number, `most` or less; what is before it is pushed."""
        run = self.run
        state, at = run.initial(), 0
        while at < most and (record := run.kept.load(f"start {at + 1}")) is not None:
            for integers in _integers(state):
                checkpoints.push(jnp.copy(integers))
            at += 1
            start = plans[at].segments[0].start
            state = run.initial()
            for step, change in sorted(run.course.unit_changes.items()):
                if step < start:
                    state = with_units_after(state, change)
            state = without_buffers(copied(run.rescaled(_with_integers(state, record.arrays["integers"]), start)))
        return state, at

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
        state = _with_integers(like, [checkpoints.pop() for _ in _integers(like)][::-1])
        for segment in plan.segments:
            state = with_units_before(state, self.run.course.unit_changes.get(segment.start, {}))
        return without_buffers(copied(self.run.rescaled(state, plan.segments[0].start)))


def _integers(state: State) -> list[jax.Array]:
    return [number.integers for number in jax.tree.leaves(state, is_leaf=is_number)]


def _with_integers(state: State, integers: Sequence[Any]) -> State:
    numbers, treedef = jax.tree.flatten(state, is_leaf=is_number)
    return treedef.unflatten(
        [number._replace(integers=jnp.asarray(one)) for number, one in zip(numbers, integers, strict=True)]
    )


def _like(tree: Any, arrays: Sequence[np.ndarray]) -> Any:
    """The arrays as a pytree; files know some types only by their size."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef.unflatten([jnp.asarray(one.view(leaf.dtype)) for one, leaf in zip(arrays, leaves, strict=True)])


def _sum(*counts: dict[str, int]) -> dict[str, int]:
    return {name: sum(one.get(name, 0) for one in counts) for count in counts for name in count}
