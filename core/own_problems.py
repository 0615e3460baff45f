"""What programs and installed problems have in common before they run: their data, and hyperparameters of their own.

Loads no JAX.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from core.datasets import GivenData
from core.errors import InvalidSpec
from core.spec import JobSpec, OwnProblem
from core.uploads import canonical

Misfit = tuple[tuple[str, ...], str]
"""A field of the specification, and what is wrong with it."""


@dataclass(frozen=True)
class GivenOwn:
    """What a job about a problem of its user's own needs beside its specification.

    Attributes:
        program: the archive; None where the problem is installed.
        data: uploaded data sets, by the names under which the problem takes them.
    """

    program: bytes | None = None
    data: dict[str, GivenData] = field(default_factory=dict)


def fetched(spec: JobSpec, opened: Callable[[str], AbstractContextManager[BinaryIO]]) -> GivenOwn:
    """The program that the job is about, if it is, and its data.

    Args:
        spec: of the job, pinned.
        opened: digest → its bytes, such as `Storage.opened`.

    Raises:
        InvalidSpec: the job is not pinned: an id means something to one server only.
    """
    problem, program = spec.own, None
    if spec.program is not None and spec.program.sha256 is None:
        raise InvalidSpec((("problem", "sha256"), "the program is known to the server it was uploaded to alone"))
    if problem is None or (problem.data and problem.data_sha256 is None):
        raise InvalidSpec((("problem", "data_sha256"), "the data are known to the server they were sent to alone"))
    if spec.program is not None and spec.program.sha256 is not None:
        with opened(spec.program.sha256) as file:
            program = file.read()
    data = {}
    for name, sha256 in (problem.data_sha256 or {}).items():
        with opened(sha256) as file:
            data[name] = canonical.read(file, sha256)
    return GivenOwn(program, data)


def check_given(spec: JobSpec, given: GivenOwn) -> dict[str, str]:
    """Digests of the data given.

    Raises:
        InvalidSpec: they are others than the job names.
    """
    assert spec.own is not None  # noqa: S101 - for the type checker
    digests = {name: one.sha256 for name, one in given.data.items()}
    if set(digests) != set(spec.own.data) or spec.own.data_sha256 not in (None, digests):
        raise InvalidSpec((("problem", "data"), "the data given are others than the job names; give those"))
    return digests


def misfits(problem: OwnProblem, shapes: dict[str, tuple[int, ...]]) -> list[Misfit]:
    """What the job says of hyperparameters that the problem does not have, or has in other shapes.

    Args:
        problem: as the job has it.
        shapes: of the hyperparameters that there are.
    """
    found: list[Misfit] = []
    for where, names in (("learn", problem.learn or ()), ("initial", problem.initial)):
        for name in names:
            if name not in shapes:
                said = f"the {problem.kind} has no hyperparameter {name!r}; it has {', '.join(shapes)}"
                found.append((("problem", where), said))
    for name, initial in problem.initial.items():
        if name in shapes and not initial_fits(initial, shapes[name]):
            found.append(
                (
                    ("problem", "initial", name),
                    f"has another shape than the {problem.kind}'s {list(shapes[name])}; give one number, or as many",
                )
            )
    return found


def initial_fits(initial: Any, shape: tuple[int, ...]) -> bool:
    """Whether it is one number, or nested lists of this shape."""
    try:
        given = np.array(initial, np.float64)
    except ValueError:  # ragged
        return False
    return given.shape in ((), shape)
