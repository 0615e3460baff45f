"""What every engine is: one call, for one run or for several."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax

from core.engines.problem import Hyper, Problem
from core.engines.result import Hypergradient
from core.reversal.optimizers import Optimizer


class Memory(NamedTuple):
    """Bytes that a hypergradient needs while it is computed, beyond what is there before."""

    device_bytes: int  # at most
    host_bytes: int  # at most
    at_once_bytes: int  # of both together, at most: less than their sum where one peaks while the other does not


class Engine(Protocol):
    """A way to compute hypergradients."""

    @property
    def name(self) -> str:
        """As certificates call it."""

    @property
    def exact_for(self) -> str:
        """What its gradient is exact for, in words; certificates repeat it."""

    @property
    def complete(self) -> bool:
        """Whether its gradient is the whole one, of every hyperparameter."""

    def many(
        self, problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, keys: jax.Array
    ) -> list[Hypergradient]:
        """Hypergradients of runs that differ in their key: one key [], or several [S].

        Runs that go together share one certificate.
        """

    def memory(
        self, problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, key: jax.Array
    ) -> Memory:
        """What one run needs, by XLA's analysis of its compiled programs; no step is taken."""

    def shortened(self, num_steps: int, short: int) -> Engine:
        """The engine whose cost for `short` steps is to this one's for `num_steps` as the numbers of steps are."""
