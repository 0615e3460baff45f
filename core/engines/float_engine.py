"""What engines in ordinary floats have in common: one traceable function of a run, which a subclass gives.

Their gradients are right up to the rounding of floats, and prove nothing about themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from core.engines.certificate import Certificate
from core.engines.engine import Engine, Memory
from core.engines.floating import Take, check_range, dynamics
from core.engines.inner import begin
from core.engines.problem import Hyper, Params, Problem, group_names
from core.engines.result import Hypergradient
from core.reversal.optimizers import Optimizer, State
from core.reversal.schedule import check

Loop = Callable[[Take, State, jax.Array], tuple[State, jax.Array]]
"""(take, state, steps [n]) → (state after these steps, each group's largest |w| in each, [n, groups])."""


class Outcome(NamedTuple):
    """What a run comes to."""

    value: jax.Array  # outer loss
    gradient: Hyper
    params: Params
    largest: jax.Array  # |w| of each group in each step, [T, groups]
    evidence: Any = None  # what `check` judges it by


class FloatEngine:
    """Base of engines in ordinary floats, which are frozen dataclasses: `differentiate` is compiled once for each."""

    name: ClassVar[str]
    exact_for: ClassVar[str]
    complete: ClassVar[bool]

    def differentiate(
        self, problem: Problem, hyper: Hyper, key: jax.Array, optimizer: Optimizer, num_steps: int
    ) -> Outcome:
        """One run, traceable. Every engine has its own."""
        raise NotImplementedError

    def check(self, outcome: Outcome) -> None:
        """Raise if an outcome is none."""

    def exact_for_steps(self, num_steps: int) -> str:
        """`exact_for`, of a training of so many steps."""
        return self.exact_for

    def many(
        self, problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, keys: jax.Array
    ) -> list[Hypergradient]:
        """See `Engine`. Runs are made one after another."""
        each = [keys] if keys.ndim == 0 else list(keys)
        return [self._one(problem, hyper, optimizer, num_steps, key) for key in each]

    def memory(
        self, problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, key: jax.Array
    ) -> Memory:
        """See `Engine`."""
        compiled = _run.lower(self, problem, hyper, key, optimizer, num_steps).compile()
        analysis: Any = compiled.memory_analysis()  # None on backends that do not analyse
        on_device = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
        return Memory(on_device, 0, on_device)

    def shortened(self, num_steps: int, short: int) -> Engine:
        """See `Engine`."""
        return self

    def _one(
        self, problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, key: jax.Array
    ) -> Hypergradient:
        params, schedule = begin(problem, hyper, key, optimizer, num_steps)
        check(schedule, optimizer)
        outcome = _run(self, problem, hyper, key, optimizer, num_steps)
        check_range(outcome.largest, group_names(params))
        self.check(outcome)
        certificate = Certificate(
            False,
            self.name,
            "autodiff",
            None,
            None,
            None,
            exact_for=self.exact_for_steps(num_steps),
            optimizer=optimizer.name,
        )
        return Hypergradient(outcome.value, outcome.gradient, outcome.params, certificate)


@partial(jax.jit, static_argnames=("engine", "optimizer", "num_steps"))
def _run(
    engine: FloatEngine, problem: Problem, hyper: Hyper, key: jax.Array, optimizer: Optimizer, num_steps: int
) -> Outcome:
    return engine.differentiate(problem, hyper, key, optimizer, num_steps)


def by_reverse_mode(
    problem: Problem, hyper: Hyper, key: jax.Array, optimizer: Optimizer, num_steps: int, loop: Loop
) -> Outcome:
    """Outcome of reverse-mode autodiff through a training that `loop` runs."""

    def trained(hyper: Hyper) -> tuple[jax.Array, tuple[Params, jax.Array]]:
        state, take = dynamics(problem, hyper, key, optimizer, num_steps)
        state, largest = loop(take, state, jnp.arange(num_steps))
        return problem.outer_loss(state.position, hyper, key), (state.position, largest)

    (value, (params, largest)), gradient = jax.value_and_grad(trained, has_aux=True)(hyper)
    return Outcome(value, gradient, params, largest)
