"""Training alone: the forward half of the reversible engine, for evaluating hyperparameters."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from core.hypergradient.inner import begin, inner_gradient
from core.hypergradient.problem import Hyper, Params, Problem, group_names
from core.reversible.information_buffer import Plan
from core.reversible.optimizers import Optimizer, at_rest
from core.reversible.schedule import check
from core.reversible.trajectory import LeftRange, Trajectory, as_real, forward, locate_overflow, plan_for


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
        self.problem, self.hyper, self.optimizer, self.num_steps, self.key = problem, hyper, optimizer, num_steps, key
        self.interrupt = interrupt
        params, self.schedule = begin(problem, hyper, key, optimizer, num_steps)
        check(self.schedule, optimizer)
        self.shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
        self.dtypes = jax.tree.map(lambda leaf: jnp.dtype(leaf.dtype), params)
        self.initial = at_rest(optimizer, params)
        self.gradient = inner_gradient(problem, hyper, key)

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
                self.initial,
                plan,
                dtypes=self.dtypes,
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
            self.initial,
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
    return as_real(run.forward(run.plan()).state.position, run.dtypes)
