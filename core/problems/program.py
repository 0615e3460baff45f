"""The inner problem of a job about a program that its user has exported."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from core.engines import Problem
from core.errors import InvalidSpec
from core.hyperparameters import Group, Layout, layouts_of
from core.problems.hypers import Hyper
from core.problems.inner import Draw, Train
from core.programs import running
from core.programs.fitting import check_data
from core.programs.given import GivenProgram
from core.programs.running import Program
from core.records import Evaluation, Losses
from core.shapes import groups_for
from core.spec import JobSpec
from core.starts import Exactly

_UNKNOWN = float("nan")  # what a program calls training, validation and test is its own affair


class ProgramInner:
    """A program with its data. See `core.problems.inner.InnerProblem`.

    Its hyperparameters are the program's own leaves, held as they are; those that the job does not learn stay where
    they start. Losses are the outer one alone; measures are the program's metrics.
    """

    def __init__(
        self, spec: JobSpec, groups: tuple[Group, ...], layouts: dict[str, Layout], program: Program, data: Any
    ) -> None:
        self.groups, self.layouts = groups, layouts
        self.sha256: str | None = _digest(spec.program.data_sha256 if spec.program is not None else None)
        self.facts: dict[str, np.ndarray] = {}
        fixed = {name: layout.initial_values() for name, layout in layouts.items() if not layout.learn}
        self._problem: Problem = running.problem_of(program, data, fixed)
        self._metrics = _compiled(program, self._problem)

    @classmethod
    def of(cls, spec: JobSpec, given: GivenProgram) -> ProgramInner:
        """The inner problem that a specification asks for.

        Raises:
            InvalidSpec: the program or its data are others than the job wants.
            InvalidProgram: it is damaged, or made of what is not run.
        """
        program = running.load(given.content)
        if spec.program is None or spec.program.sha256 not in (None, program.sha256):
            said = f"the program given has the SHA-256 {program.sha256}; give the one that the job names"
            raise InvalidSpec((("problem", "sha256"), said))
        groups = groups_for(spec, program=program.manifest)
        digests = {name: one.sha256 for name, one in given.data.items()}
        if set(digests) != set(spec.program.data) or spec.program.data_sha256 not in (None, digests):
            raise InvalidSpec((("problem", "data"), "the data given are others than the job names; give those"))
        data = {name: {"inputs": one.inputs, "labels": one.labels} for name, one in sorted(given.data.items())}
        for name, arrays in data.items():
            check_data(name, program.manifest, {key: (one.shape, one.dtype.name) for key, one in arrays.items()})
        pinned = spec.pinned_program(program.sha256, program.manifest.shapes, digests)
        layouts = {
            name: _started(layout, spec.program.initial.get(name, program.initial[name]))
            for name, layout in layouts_of(pinned, groups).items()
        }
        return cls(pinned, groups, layouts, program, _shaped(program, data))

    def draw(self, number: int) -> Draw:
        """See `InnerProblem`: always the same."""
        return Draw(self._problem, lambda params, hyper: Losses(*[_UNKNOWN] * 4))

    def evaluate(self, hyper: Hyper, number: int, key: jax.Array, train: Train) -> Evaluation:
        """See `InnerProblem`. Measures are what the program measures, where that is a finite number."""
        params = train(self._problem)
        outer = float(self._problem.outer_loss(params, hyper, key))
        measures = {name: float(one) for name, one in self._metrics(params, hyper, key).items()}
        return Evaluation(
            Losses(outer, _UNKNOWN, _UNKNOWN, _UNKNOWN),
            {name: one for name, one in measures.items() if math.isfinite(one)},
        )


def _started(layout: Layout, initial: Any) -> Layout:
    return replace(layout, start=Exactly.of(np.broadcast_to(initial, layout.shape)))


def _compiled(program: Program, problem: Problem) -> Partial:
    """The program's metrics, of the data and fixed hyperparameters that the problem has."""
    bound = problem.outer_loss.args  # type: ignore[attr-defined]
    return Partial(program.metrics, *bound)


def _shaped(program: Program, data: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    """Uploaded data as the program takes them."""
    return {
        name: {leaf.name: data[name][leaf.name].astype(leaf.dtype).reshape(leaf.shape) for leaf in leaves}
        for name, leaves in program.manifest.data.items()
    }


def _digest(data: dict[str, str] | None) -> str | None:
    """Of all data together; of one data set its own."""
    if not data:
        return None
    if len(data) == 1:
        return next(iter(data.values()))
    return hashlib.sha256("".join(f"{name}\n{one}\n" for name, one in sorted(data.items())).encode()).hexdigest()
