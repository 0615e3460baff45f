"""A program and its data, as whoever runs a job about them has fetched them. Loads no JAX."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.datasets import GivenData


@dataclass(frozen=True)
class GivenProgram:
    """What a job about a program needs beside its specification.

    Attributes:
        content: the archive.
        data: uploaded data sets, by the names under which the program takes them.
    """

    content: bytes
    data: dict[str, GivenData] = field(default_factory=dict)
