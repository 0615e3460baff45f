"""Training alone: the forward half of the reversible engine, for evaluating hyperparameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from core.engines.inner import begin, inner_gradient
from core.engines.problem import Hyper, Params, Problem, group_names
from core.reversal.information_buffer import Plan
from core.reversal.optimizers import Optimizer, State, at_rest
from core.reversal.pace import Pace
from core.reversal.schedule import Schedule, check
from core.reversal.segments import Static, real_parameters
from core.reversal.trajectory import LeftRange, Trajectory, forward, locate_overflow, plan_for


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
    """One training run of a problem, ready to be taken forward."""

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
        params, self.schedule = self._begin()
        check(self.schedule, optimizer)
        self.shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
        self.dtypes = jax.tree.map(lambda leaf: jnp.dtype(leaf.dtype), params)
        self.gradient = inner_gradient(problem, hyper, key)
        self.habits = _habits_of(self._program())

    def initial(self) -> State:
        """The fixed-point state that training starts from: made anew, with the same bits, rather than kept."""
        return at_rest(self.optimizer, self._begin()[0])

    def _begin(self) -> tuple[Params, Schedule]:
        return begin(self.problem, self.hyper, self.key, self.optimizer, self.num_steps)

    def _program(self) -> Any:
        """What decides the compiled programs."""
        arguments = (self.shapes, self.hyper, self.problem)
        avals = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(arguments))
        return self.optimizer, jax.tree.structure(arguments), avals, jax.default_backend()

    def parameters(self, state: State) -> Params:
        """Elementary parameters of a fixed-point state, in compute precision."""
        return real_parameters(state, Static(self.dtypes))

    def plan(self, num_steps: int | None = None) -> Plan:
        """Spill plan of the run, or of its first steps."""
        return plan_for(self.optimizer, self.schedule, self.shapes, num_steps or self.num_steps)

    def forward(self, plan: Plan) -> Trajectory:
        """Train along `plan`. Raises FixedPointOverflow."""
        try:
            return forward(
                self.optimizer,
                self.gradient,
                self.schedule,
                self.initial(),
                plan,
                dtypes=self.dtypes,
                pace=self.habits.forward,
                interrupt=self.interrupt,
            )
        except LeftRange:
            self.locate_overflow()
            raise

    def locate_overflow(self) -> None:
        """Raise FixedPointOverflow if training leaves the fixed-point range at any step."""
        locate_overflow(
            self.optimizer,
            self.gradient,
            self.schedule,
            self.initial(),
            self.num_steps,
            dtypes=self.dtypes,
            names=group_names(self.shapes),
            interrupt=self.interrupt,
        )


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
    return run.parameters(run.forward(run.plan()).state)
