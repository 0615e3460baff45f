"""Two weights in a valley (Maclaurin, Duvenaud and Adams 2015, figure 1)."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from core.engines import Problem
from core.hyperparameters import Group, Layout
from core.problems.hypers import Hyper, Hypers, interned
from core.problems.inner import Draw, Train
from core.records import Evaluation, Losses
from core.spec import JobSpec, ToyProblem

Params = dict[str, jax.Array]


def valley(weights: jax.Array) -> jax.Array:
    """800·σ(R/500), R = 100(x − y²)² + (1 − y)² + 200y, of weights (y, x): a bent valley."""
    y, x = weights
    return 800 * jax.nn.sigmoid((100 * (x - y**2) ** 2 + (1 - y) ** 2 + 200 * y) / 500)


class Toy:
    """The toy problem. See `core.problems.inner.InnerProblem`."""

    def __init__(self, spec: JobSpec, groups: tuple[Group, ...], layouts: dict[str, Layout]) -> None:
        assert isinstance(spec.problem, ToyProblem)  # noqa: S101 - for the type checker
        self.groups, self.layouts = groups, layouts
        self.sha256: str | None = None
        self.facts: dict[str, np.ndarray] = {}
        self._program = program = interned(
            _Program(
                spec.problem.start,
                Hypers(spec.training.optimizer, tuple(layouts.values()), groups, spec.training.dtype),
            )
        )
        self._problem = Problem(program.init, program.inner_loss, program.outer_loss, program.schedule)

    def draw(self, number: int) -> Draw:
        """See `InnerProblem`: always the same."""
        return Draw(self._problem, self._losses)

    def evaluate(self, hyper: Hyper, number: int, key: jax.Array, train: Train) -> Evaluation:
        """See `InnerProblem`."""
        return Evaluation(self._losses(train(self._problem), hyper), {})

    def _losses(self, params: Params, hyper: Hyper) -> Losses:
        loss = float(valley(params["weights"]))
        return Losses(loss + float(self._program.hypers.outer_penalty(hyper)), loss, loss, loss)


@dataclass(frozen=True)
class _Program:
    """Equal ones compile once."""

    start: tuple[float, float]
    hypers: Hypers

    def init(self, hyper: Hyper, key: jax.Array) -> Params:
        return {"weights": jnp.asarray(self.start, self.hypers.dtype)}

    def inner_loss(self, params: Params, hyper: Hyper, step: jax.Array, key: jax.Array) -> jax.Array:
        return valley(params["weights"])

    def outer_loss(self, params: Params, hyper: Hyper, key: jax.Array) -> jax.Array:
        return valley(params["weights"]) + self.hypers.outer_penalty(hyper)

    def schedule(self, hyper: Hyper) -> dict[str, jax.Array]:
        return self.hypers.schedule(hyper)
