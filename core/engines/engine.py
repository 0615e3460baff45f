"""What every engine is: one call, for one run or for several."""

from __future__ import annotations

from typing import Protocol

import jax

from core.engines.certificate import Certificate
from core.engines.problem import Hyper, Problem
from core.engines.result import Hypergradient
from core.reversal.optimizers import Optimizer


class Engine(Protocol):
    """A way to compute hypergradients."""

    @property
    def exact_for(self) -> str:
        """What its gradient is exact for, in words; certificates repeat it."""

    @property
    def name(self) -> str:
        """As certificates call it."""

    def many(
        self, problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, keys: jax.Array
    ) -> list[Hypergradient]:
        """Hypergradients of runs that differ in their key: one key [], or several [S].

        Runs that go together share one certificate.
        """


class OneByOne:
    """For engines that are written for one run: several are made one after another."""

    def __call__(
        self, problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, key: jax.Array
    ) -> Hypergradient:
        """Hypergradient of one training run."""
        raise NotImplementedError

    def many(
        self, problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, keys: jax.Array
    ) -> list[Hypergradient]:
        """See `Engine`."""
        each = [keys] if keys.ndim == 0 else list(keys)
        return [self(problem, hyper, optimizer, num_steps, key) for key in each]


def autodiff_certificate(engine: Engine) -> Certificate:
    """What an engine that differentiates through ordinary floats can say of itself: nothing is proven."""
    return Certificate(False, engine.name, "autodiff", None, None, None, exact_for=engine.exact_for)
