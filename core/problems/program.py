"""The inner problem of a job about a program that its user has exported."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax.tree_util import Partial

from core.engines import Problem
from core.errors import InvalidSpec
from core.hyperparameters import Group
from core.own_problems import GivenOwn, check_given
from core.problems.own import OwnInner, fixed, started
from core.programs import running
from core.programs.fitting import check_data, check_fits
from core.programs.running import Program
from core.spec import JobSpec


def program_inner(spec: JobSpec, given: GivenOwn) -> OwnInner:
    """The inner problem that a specification asks for.

    Raises:
        InvalidSpec: the program or its data are others than the job wants.
        InvalidProgram: it is damaged, or made of what is not run.
    """
    if given.program is None or spec.program is None:
        raise InvalidSpec((("problem", "id"), "the job is about another problem than was given; give its program"))
    program = running.load(given.program)
    if spec.program.sha256 not in (None, program.sha256):
        said = f"the program given has the SHA-256 {program.sha256}; give the one that the job names"
        raise InvalidSpec((("problem", "sha256"), said))
    manifest = program.manifest
    check_fits(spec, manifest)
    groups = tuple(Group(leaf.name, leaf.shape) for leaf in manifest.params)
    digests = check_given(spec, given)
    data = {name: {"inputs": one.inputs, "labels": one.labels} for name, one in sorted(given.data.items())}
    for name, arrays in data.items():
        check_data(name, manifest, {key: (one.shape, one.dtype.name) for key, one in arrays.items()})
    pinned = spec.pinned_own(manifest.shapes, digests, sha256=program.sha256)
    layouts = started(pinned, groups, program.initial)
    problem = running.problem_of(program, _shaped(program, data), fixed(layouts))
    return OwnInner(pinned, groups, layouts, problem, _metrics(program, problem))


def _metrics(program: Program, problem: Problem) -> Partial:
    """The program's metrics, of the data and fixed hyperparameters that the problem has."""
    bound = problem.outer_loss.args  # type: ignore[attr-defined]
    return Partial(program.metrics, *bound)


def _shaped(program: Program, data: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, Any]]:
    """Uploaded data as the program takes them."""
    return {
        name: {leaf.name: data[name][leaf.name].astype(leaf.dtype).reshape(leaf.shape) for leaf in leaves}
        for name, leaves in program.manifest.data.items()
    }
