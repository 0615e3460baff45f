"""The inner problem of a job about its user's own functions: a program, or an installed problem."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from core.engines import Problem
from core.hyperparameters import Group, Layout, layouts_of
from core.problems.hypers import Hyper
from core.problems.inner import Draw, Train
from core.records import Evaluation, Losses
from core.spec import JobSpec
from core.starts import Exactly

_UNKNOWN = float("nan")  # what it calls training, validation and test is its own affair


class OwnInner:
    """See `core.problems.inner.InnerProblem`.

    Its hyperparameters are the problem's own leaves, held as they are; those that the job does not learn stay where
    they start. Losses are the outer one alone; measures are the problem's metrics.
    """

    def __init__(
        self,
        spec: JobSpec,
        groups: tuple[Group, ...],
        layouts: dict[str, Layout],
        problem: Problem,
        metrics: Callable[..., dict[str, Any]],
    ) -> None:
        assert spec.own is not None  # noqa: S101 - for the type checker
        self.groups, self.layouts = groups, layouts
        self.sha256: str | None = _digest(spec.own.data_sha256)
        self.facts: dict[str, np.ndarray] = {}
        self._problem, self._metrics = problem, metrics

    def draw(self, number: int) -> Draw:
        """See `InnerProblem`: always the same."""
        return Draw(self._problem, lambda params, hyper: Losses(*[_UNKNOWN] * 4))

    def evaluate(self, hyper: Hyper, number: int, key: jax.Array, train: Train) -> Evaluation:
        """See `InnerProblem`. Measures are what the problem measures, where that is a finite number."""
        params = train(self._problem)
        outer = float(self._problem.outer_loss(params, hyper, key))
        measures = {name: float(one) for name, one in self._metrics(params, hyper, key).items()}
        return Evaluation(
            Losses(outer, _UNKNOWN, _UNKNOWN, _UNKNOWN),
            {name: one for name, one in measures.items() if math.isfinite(one)},
        )


def started(spec: JobSpec, groups: tuple[Group, ...], initial: dict[str, np.ndarray]) -> dict[str, Layout]:
    """Layouts of a pinned job, with numbers in the place of "where the problem has them".

    Args:
        spec: the job.
        groups: of its parameters.
        initial: where the problem has each hyperparameter.
    """
    assert spec.own is not None  # noqa: S101 - for the type checker
    given = spec.own.initial
    return {
        name: replace(layout, start=Exactly.of(np.broadcast_to(given.get(name, initial[name]), layout.shape)))
        for name, layout in layouts_of(spec, groups).items()
    }


def fixed(layouts: dict[str, Layout]) -> dict[str, np.ndarray]:
    """Values of the hyperparameters that are not learned."""
    return {name: layout.initial_values() for name, layout in layouts.items() if not layout.learn}


def _digest(data: dict[str, str] | None) -> str | None:
    """Of all data together; of one data set its own."""
    if not data:
        return None
    if len(data) == 1:
        return next(iter(data.values()))
    return hashlib.sha256("".join(f"{name}\n{one}\n" for name, one in sorted(data.items())).encode()).hexdigest()
