"""Training alone: the forward half of the reversible engine, for evaluating hyperparameters."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from core.engines.arguments import checked, start_blamed
from core.engines.following import LOOK_EVERY, UnitChanges, looks_at, of_run, refinement_for, room_for
from core.engines.inner import begin, initial_parameters, inner_gradient
from core.engines.problem import Hyper, Params, Problem, group_names
from core.engines.units import SCALE_STEPS, Exponents, first_exponents, units_of
from core.errors import FixedPointOverflow, UncertifiedGradient
from core.reversal.departure import first_departures
from core.reversal.drift import drift_of
from core.reversal.information_buffer import Plan, plan_spills
from core.reversal.lifting import LIMIT
from core.reversal.moves import is_number
from core.reversal.optimizers import Optimizer, State
from core.reversal.pace import Pace
from core.reversal.schedule import Schedule, check, prepare
from core.reversal.seeds import ONE, seeds_over_devices
from core.reversal.segments import float_magnitudes
from core.reversal.states import Static, real_parameters, with_scales, without_buffers
from core.reversal.stepping import fixed_rest
from core.reversal.stores import NoStore, Store
from core.reversal.trajectory import (
    Conduct,
    Course,
    LeftRange,
    Trajectory,
    factors_of,
    forward,
    sizes_of,
)


@dataclass
class Habits:
    """What earlier runs of a program taught. Hints only: they change how a result is reached, never the result."""

    forward: Pace = field(default_factory=Pace)
    backward: Pace = field(default_factory=Pace)
    mode: str | None = None  # of the reversible engine, that was certified last


_habits: dict[Any, Habits] = {}
_MAX_HABITS = 32


def _habits_of(program: Any) -> Habits:
    if program not in _habits and len(_habits) >= _MAX_HABITS:
        del _habits[next(iter(_habits))]  # the oldest; a program holds on to its problem's functions
    return _habits.setdefault(program, Habits())


class Run:
    """One training run of a problem, or several at once, ready to be taken forward.

    Attributes:
        course: what the trajectory follows.
        gradient: of the inner loss.
        shapes: of one run's parameters.
        habits: of the program.
        factors: decay factors of all steps.
        exponents: of the units that training begins with.
        changes: of these units, as found so far.
    """

    def __init__(
        self,
        problem: Problem,
        hyper: Hyper,
        optimizer: Optimizer,
        num_steps: int,
        key: jax.Array,
        interrupt: Callable[[], None],
    ) -> None:
        self.problem, self.hyper, self.optimizer, self.num_steps, self.key = (
            problem,
            hyper,
            optimizer,
            num_steps,
            key,
        )
        self.interrupt = interrupt
        first = key if key.ndim == 0 else key[0]
        params, given = begin(problem, hyper, first, optimizer, num_steps)
        check(given, optimizer)
        self.shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
        schedule = _prepared(given, optimizer, num_steps)
        self.factors = factors_of(optimizer, schedule, self.shapes, num_steps)
        self.course = Course(
            optimizer,
            jax.tree.map(lambda leaf: jnp.dtype(leaf.dtype), params),
            schedule,
            drift_of(self.factors),
            key,
            ONE if key.ndim == 0 else seeds_over_devices(len(key)),
        )
        self.gradient = inner_gradient(problem, hyper)
        self.habits = _habits_of(self._program())
        self.exponents = self._probed_exponents()
        self.changes = UnitChanges()

    def plan(self, start: int = 0, stop: int | None = None) -> Plan:
        """Spill plan of steps [start, stop)."""
        runs = self.course.seeds.count or 1
        plan = plan_spills(self.factors, [size * runs for size in sizes_of(self.shapes)], start, stop)
        return plan.cut_at([*self.changes.by_step(), *self._looks()])

    def plans(self) -> list[Plan]:
        """Spill plans of the stretches that training is taken in."""
        return [self.plan()]

    def initial(self) -> State:
        """The fixed-point state that training starts from: made anew, with the same bits, rather than kept."""
        params = initial_parameters(
            self.problem, self.hyper, self.key, self.optimizer, self.num_steps, self.course.seeds
        )
        units = units_of(self.exponents, self.optimizer, jax.tree.structure(self.shapes))
        return fixed_rest(self.optimizer, params, units, tuple(self.course.drift.after), self.course.seeds)

    def rescaled(self, state: State, step: int) -> State:
        """With the scales that drifting numbers have when this step is reached."""
        scales = self.course.drift.arriving(step)
        runs = () if self.course.seeds.count is None else (self.course.seeds.count,)
        return with_scales(
            state, {field: jnp.broadcast_to(values, (*runs, *values.shape)) for field, values in scales.items()}
        )

    def _program(self) -> Any:
        """What decides the compiled programs."""
        arguments = (self.shapes, self.hyper, self.problem)
        avals = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(arguments))
        return self.optimizer, jax.tree.structure(arguments), avals, jax.default_backend(), self.course.seeds

    def _probed_exponents(self) -> Exponents:
        params = initial_parameters(
            self.problem, self.hyper, self.key, self.optimizer, self.num_steps, self.course.seeds
        )
        found = float_magnitudes(
            self.optimizer,
            self.gradient,
            self.course.schedule,
            self.key,
            params,
            min(SCALE_STEPS, self.num_steps),
            self.course.seeds,
        )
        largest = jax.device_get(found)
        for name, weights in zip(group_names(self.shapes), largest["position"], strict=True):
            if (weights >= LIMIT).any():  # so they began, as steps that leave the range do not count
                raise FixedPointOverflow(step=0, group=name, largest=float(weights.max()), limit=LIMIT)
        dtypes = [leaf.dtype for leaf in jax.tree.leaves(self.shapes)]
        drifting = self.course.drift.after
        return first_exponents(self.optimizer, largest, dtypes, self.key.ndim, drifting)

    def parameters(self, state: State) -> Params:
        """Elementary parameters of a fixed-point state, in compute precision."""
        return real_parameters(state, Static(self.course.dtypes), self.course.seeds)

    def forward(self, plan: Plan, initial: State, store: Store) -> Trajectory:
        """Train along `plan` from `initial` (consumed). The store is closed if that fails. Raises LeftRange."""
        state = initial
        try:
            for part in plan.parts(self._looks()):
                trajectory = forward(
                    self.course, self.gradient, state, part, store=store, conduct=self.conduct(self.habits.forward)
                )
                self._look(trajectory)
                state = trajectory.state
        except BaseException:
            store.close()
            raise
        return trajectory._replace(plan=plan.joined_but_at(self.course.unit_changes))

    def forward_only(
        self,
        plans: list[Plan],
        push: Callable[[jax.Array], None] = lambda _: None,
        initial: State | None = None,
    ) -> State:
        """Train along plan after plan, pushing the state before each, and keeping no bits.

        Args:
            plans: each begins where the one before it ends.
            push: takes integers.
            initial: where the first begins (consumed); the start of training unless given.

        Returns:
            The state after the last. Buffers are empty at the start of each plan.

        Raises:
            LeftRange: as for `forward`.
        """
        state = self.initial() if initial is None else initial
        for plan in plans:
            for number in jax.tree.leaves(state, is_leaf=is_number):
                push(jnp.copy(number.integers))
            state = without_buffers(self.forward(plan, state, NoStore()).state)
        return state

    def in_range(self, work: Callable[[], Any]) -> Any:
        """Do work that trains; what leaves its range gets a coarser unit from that step on, and the work starts over.

        Raises:
            FixedPointOverflow: training diverged.
            UncertifiedGradient: it did so once, and not when it was repeated.
        """
        while True:
            with suppress(LeftRange):  # not handled within: its frames hold on to a state
                return work()
            if not self.make_room():
                raise UncertifiedGradient(
                    "training left the range of its numbers, and did not when it was repeated: the inner loss does not "
                    "return the same bits for the same arguments; make it deterministic (no host state, no "
                    "nondeterministic device operations)"
                )

    def make_room(self) -> bool:
        """Give what leaves its range a coarser unit from that step on; False if nothing does.

        Raises:
            FixedPointOverflow: training diverged.
        """
        conduct, runs = Conduct(interrupt=self.interrupt), self.course.seeds.count
        found = first_departures(self.course, self.gradient, self.initial(), self.plans(), conduct)
        for number, departure in found.items():
            rooms = list(self.changes.rooms.values()) if runs is None else self.changes.rooms_of(number)
            room = room_for(departure, self.optimizer, rooms, group_names(self.shapes))
            self.changes.make_room(departure.step, room if runs is None else of_run(number, runs, room))
        self._follow_changes()
        return bool(found)

    def _looks(self) -> range:
        """Steps before which units may become finer."""
        return range(LOOK_EVERY, self.num_steps, LOOK_EVERY) if looks_at(self.optimizer) else range(0)

    def _look(self, trajectory: Trajectory) -> None:
        step = trajectory.plan.segments[-1].stop
        if step in self._looks() and step > self.changes.looked:
            given = {at: change for at, change in self.changes.rooms.items() if at < step}
            finer = refinement_for(trajectory.state, self.optimizer, trajectory.largest, given)
            self.changes.look(step, finer)
            if finer:
                self._follow_changes()

    def _follow_changes(self) -> None:
        self.course = self.course._replace(unit_changes=self.changes.by_step())

    def conduct(self, pace: Pace) -> Conduct:
        """How a trajectory is run."""
        return Conduct(pace, self.interrupt)


@partial(jax.jit, static_argnames=("optimizer", "num_steps"))
def _prepared(schedule: Schedule, optimizer: Optimizer, num_steps: int) -> Schedule:
    return prepare(schedule, optimizer, num_steps)


def train(
    problem: Problem,
    hyper: Hyper,
    *,
    optimizer: Optimizer,
    num_steps: int,
    key: jax.Array,
    interrupt: Callable[[], None] = lambda: None,
) -> Params:
    """Parameters after training, with the very bits that `hypergradient` trains to by the reversible engine: unless a
    number left its range for fewer steps than lie between two checks, which running backward alone can notice.

    Raises:
        X64Disabled, InvalidProblem: as for `hypergradient`.
        FixedPointOverflow: training diverged.
    """
    arguments = checked(problem, hyper, optimizer, num_steps, key).one_run()
    with start_blamed(arguments):
        run = Run(*arguments, interrupt)
        return run.parameters(run.in_range(lambda: run.forward_only(run.plans())))
