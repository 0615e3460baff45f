"""What figures are drawn from: a job's stored results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from core.hyperparameters import Group, Layout
from core.records import Trial, Values
from core.spec import JobSpec

OVER_TIME = ("init_scale", "augmentation")


@dataclass(frozen=True)
class Row:
    """One meta-iteration."""

    iteration: int
    outer: float
    train: float
    valid: float
    test: float
    certificate: dict[str, Any]
    diagnostics: dict[str, Any]


@dataclass(frozen=True)
class JobData:
    """A job as far as it has come.

    Attributes:
        spec, groups, layouts: of the job.
        rows: meta-iterations in order.
        values: unconstrained, by iteration: all of the best one, and of the others that were kept those that figures
            follow over time (`OVER_TIME`).
        best: number of the best iteration; None before there is one.
        measured: arrays measured beside, by name.
        trials: of the search.
    """

    spec: JobSpec
    groups: tuple[Group, ...]
    layouts: dict[str, Layout]
    rows: tuple[Row, ...]
    values: dict[int, Values]
    best: int | None
    measured: dict[str, np.ndarray]
    trials: tuple[Trial, ...]

    def learns(self, name: str) -> bool:
        """Whether there are learned values to draw. Of hyperparameters of a user's own problem nothing is known."""
        layout = None if self.spec.own is not None else self.layouts.get(name)
        return self.spec.kind == "learn" and layout is not None and layout.learn and self.best in self.values

    def natural(self, name: str, iteration: int | None = None) -> np.ndarray:
        """Natural values after so many updates; the best ones unless told."""
        which = self.best if iteration is None else iteration
        assert which is not None  # noqa: S101 - for the type checker
        return np.asarray(self.layouts[name].natural(self.values[which][name]))

    def over_time(self, name: str) -> tuple[list[int], np.ndarray]:
        """Iterations that were kept, and the natural values after each."""
        iterations = sorted(iteration for iteration, values in self.values.items() if name in values)
        return iterations, np.array([self.natural(name, iteration) for iteration in iterations])

    def diagnosed(self, name: str) -> list[tuple[int, dict[str, Any]]]:
        """Iterations at which this was measured, with what was found."""
        return [
            (row.iteration, row.diagnostics[name])
            for row in self.rows
            if name in row.diagnostics and "error" not in row.diagnostics[name]
        ]


def layer_of(group: Group) -> str:
    """What its layer is called."""
    return (group.name.rpartition(".")[0] or group.name).replace("_", " ")
