"""A program and its data, as whoever runs a job about them has fetched them. Loads no JAX."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import BinaryIO

from core.datasets import GivenData
from core.errors import InvalidSpec
from core.spec import JobSpec
from core.uploads import canonical


@dataclass(frozen=True)
class GivenProgram:
    """What a job about a program needs beside its specification.

    Attributes:
        content: the archive.
        data: uploaded data sets, by the names under which the program takes them.
    """

    content: bytes
    data: dict[str, GivenData] = field(default_factory=dict)


def fetched(spec: JobSpec, opened: Callable[[str], AbstractContextManager[BinaryIO]]) -> GivenProgram:
    """The program that the job is about, and its data.

    Args:
        spec: of the job, pinned.
        opened: digest → its bytes, such as `Storage.opened`.

    Raises:
        InvalidSpec: the job is not pinned: an id means something to one server only.
    """
    problem = spec.program
    if problem is None or problem.sha256 is None or (problem.data and problem.data_sha256 is None):
        raise InvalidSpec((("problem", "sha256"), "the program is known to the server it was uploaded to alone"))
    with opened(problem.sha256) as file:
        content = file.read()
    data = {}
    for name, sha256 in (problem.data_sha256 or {}).items():
        with opened(sha256) as file:
            data[name] = canonical.read(file, sha256)
    return GivenProgram(content, data)
