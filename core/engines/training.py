"""Training alone: the forward half of the reversible engine, for evaluating hyperparameters."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.engines.inner import begin, initial_parameters, inner_gradient
from core.engines.problem import Hyper, Params, Problem, group_names
from core.reversal.information_buffer import Factors, Plan, plan_spills
from core.reversal.lifting import FRACTION_BITS, OVERFLOW
from core.reversal.moves import is_number
from core.reversal.optimizers import Optimizer, State
from core.reversal.pace import Pace
from core.reversal.schedule import Schedule, check, prepare
from core.reversal.seeds import ONE, seeds_over_devices
from core.reversal.segments import Static, float_magnitudes, real_parameters, without_buffers
from core.reversal.stepping import anatomy, fixed_rest
from core.reversal.stores import NoStore, Store
from core.reversal.trajectory import (
    Conduct,
    Course,
    LeftRange,
    Trajectory,
    factors_of,
    forward,
    locate_overflow,
    sizes_of,
)

_SCALE_STEPS = 4  # of training in floats, from which units are chosen
_HEADROOM_BITS = 6  # a number may grow 64-fold over what it was in those steps before its unit is too fine
_FLOAT32_HEADROOM_BITS = 12  # memories of float32 gradients 4096-fold: those have no use for so fine a unit
_TIGHT_BITS = 4  # or, where that spares a memory a unit coarser than weights have at most, 16-fold
_COARSER_BITS = 14  # that the unit of a memory gains when its field leaves the range
_TRIES = 3


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
        self.course = Course(
            optimizer,
            jax.tree.map(lambda leaf: jnp.dtype(leaf.dtype), params),
            _prepared(given, optimizer, num_steps),
            key,
            ONE if key.ndim == 0 else seeds_over_devices(len(key)),
        )
        self.gradient = inner_gradient(problem, hyper)
        self.habits = _habits_of(self._program())
        self.exponents = self._probed_exponents()

    @cached_property
    def factors(self) -> Factors:
        """Decay factors of all steps."""
        return factors_of(self.optimizer, self.course.schedule, self.shapes, self.num_steps)

    def plan(self, start: int = 0, stop: int | None = None) -> Plan:
        """Spill plan of steps [start, stop)."""
        runs = self.course.seeds.count or 1
        return plan_spills(self.factors, [size * runs for size in sizes_of(self.shapes)], start, stop)

    def initial(self) -> State:
        """The fixed-point state that training starts from: made anew, with the same bits, rather than kept."""
        params = initial_parameters(
            self.problem, self.hyper, self.key, self.optimizer, self.num_steps, self.course.seeds
        )
        units = {
            name: jax.tree.structure(self.shapes).unflatten([jnp.asarray(2.0**column) for column in columns])
            for name, columns in self.exponents.items()
        }
        return fixed_rest(self.optimizer, params, units, self.course.seeds)

    def _program(self) -> Any:
        """What decides the compiled programs."""
        arguments = (self.shapes, self.hyper, self.problem)
        avals = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(arguments))
        return self.optimizer, jax.tree.structure(arguments), avals, jax.default_backend(), self.course.seeds

    def _probed_exponents(self) -> dict[str, list[np.ndarray]]:
        """{field: for each group the exponent of its unit, [] or [S]}, with head room over a short run in floats."""
        params = initial_parameters(
            self.problem, self.hyper, self.key, self.optimizer, self.num_steps, self.course.seeds
        )
        largest = np.asarray(
            float_magnitudes(
                self.optimizer,
                self.gradient,
                self.course.schedule,
                self.key,
                params,
                min(_SCALE_STEPS, self.num_steps),
                self.course.seeds,
            )
        )
        fields = anatomy(self.optimizer).fields
        exponents = {"position": [position_exponent(largest[..., 0, group]) for group in range(largest.shape[-1])]}
        for index, name in enumerate(fields[1:], start=1):
            exponents[name] = [
                memory_exponent(largest[..., index, group], leaf.dtype)
                for group, leaf in enumerate(jax.tree.leaves(self.shapes))
            ]
        return exponents

    def parameters(self, state: State) -> Params:
        """Elementary parameters of a fixed-point state, in compute precision."""
        return real_parameters(state, Static(self.course.dtypes), self.course.seeds)

    def forward(self, plan: Plan, initial: State, store: Store) -> Trajectory:
        """Train along `plan` from `initial` (consumed). The store is closed if that fails. Raises LeftRange."""
        try:
            return forward(
                self.course, self.gradient, initial, plan, store=store, conduct=self.conduct(self.habits.forward)
            )
        except BaseException:
            store.close()
            raise

    def forward_only(self, plans: list[Plan], push: Callable[[jax.Array], None] = lambda _: None) -> State:
        """Train from the start along plan after plan, pushing the state before each, and keeping no bits.

        Returns:
            The state after the last. Buffers are empty at the start of each plan.

        Raises:
            LeftRange: as for `forward`.
        """
        state = self.initial()
        for plan in plans:
            for number in jax.tree.leaves(state, is_leaf=is_number):
                push(jnp.copy(number.integers))
            state = without_buffers(self.forward(plan, state, NoStore()).state)
        return state

    def in_range(self, work: Callable[[], Any]) -> Any:
        """Do work that trains; what leaves its range gets a coarser unit, and the work starts over, before it is called
        diverged.

        Raises:
            FixedPointOverflow: training diverged.
        """
        tries = 1
        while True:
            try:
                return work()
            except LeftRange as left:
                if tries == _TRIES or not self._coarsen(left.largest):
                    self.locate_overflow()
                    raise
            tries += 1

    def conduct(self, pace: Pace) -> Conduct:
        """How a trajectory is run."""
        return Conduct(pace, self.interrupt)

    def _coarsen(self, largest: np.ndarray) -> bool:
        """Give what left the range a coarser unit; whether that could help. Weights may not pass ±LIMIT."""
        if not np.isfinite(largest).all():
            return False
        left = largest >= OVERFLOW
        for index, name in enumerate(anatomy(self.optimizer).fields):
            for group, column in enumerate(self.exponents[name]):
                coarser = np.full_like(column, -FRACTION_BITS) if name == "position" else column + _COARSER_BITS
                if (left[..., index, group] & (column >= coarser)).any():
                    return False
                self.exponents[name][group] = np.where(left[..., index, group], coarser, column)
        return True

    def locate_overflow(self) -> None:
        """Raise FixedPointOverflow if training leaves the fixed-point range at any step."""
        keys = [self.key] if self.key.ndim == 0 else list(self.key)
        for number, key in enumerate(keys):
            exponents = {
                name: [column if column.ndim == 0 else column[number] for column in columns]
                for name, columns in self.exponents.items()
            }
            alone = copy(self)
            exponents["position"] = [np.full_like(column, -FRACTION_BITS) for column in exponents["position"]]
            alone.key, alone.exponents = key, exponents
            alone.course = self.course._replace(key=key, seeds=ONE)
            locate_overflow(
                alone.course,
                self.gradient,
                alone.initial(),
                self.num_steps,
                names=group_names(self.shapes),
                conduct=Conduct(interrupt=self.interrupt),
            )


def position_exponent(largest: np.ndarray) -> np.ndarray:
    """Exponent of the unit for weights that reached `largest` in the probe: 2**-40, which gives them a range of
    ±4096, or a finer one if that leaves head room.
    """
    known = np.isfinite(largest)
    fits = np.ceil(np.log2(np.maximum(np.where(known, largest, 1.0), 1.0))) - 52
    return np.where(known, np.minimum(fits + _HEADROOM_BITS, -FRACTION_BITS), -FRACTION_BITS).astype(int)


def memory_exponent(largest: np.ndarray, dtype: Any) -> np.ndarray:
    """Exponent of the unit for a memory that reached `largest` in the probe: as fine as head room allows.

    Large numbers whose unit would be coarser than 2**-40 make do with less head room.
    """
    headroom = _FLOAT32_HEADROOM_BITS if dtype == jnp.float32 else _HEADROOM_BITS
    known = np.isfinite(largest) & (largest > 0)
    fits = np.ceil(np.log2(np.where(known, largest, 1.0))) - 52
    exponent = np.minimum(fits + headroom, np.maximum(fits + _TIGHT_BITS, -FRACTION_BITS))
    return np.where(known, np.clip(exponent, -200, 100), -FRACTION_BITS).astype(int)


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
    """Parameters after training, with the very bits that `hypergradient` trains to.

    Raises:
        FixedPointOverflow: training diverged.
    """
    run = Run(problem, jax.tree.map(jnp.asarray, hyper), optimizer, num_steps, key, interrupt)
    return run.parameters(run.in_range(lambda: run.forward_only([run.plan()])))
