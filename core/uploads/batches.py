"""Tables, whatever they are read from: batches of rows, a sequence of values for each column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

MAX_ROWS = 20_000_000

Values = Sequence[str] | np.ndarray
"""Of one column: text, in which what is missing is empty or said to be; or float64, in which it is NaN."""


class Batch(NamedTuple):
    """Some rows."""

    first: int  # number of the first row, from 0
    columns: Sequence[Values]
    lines: Sequence[int] | None = None  # of the file, of each row, from 1

    def __len__(self) -> int:
        return len(self.columns[0])

    def where(self, row: int, column: str) -> str:
        """How errors name a value."""
        line = "" if self.lines is None else f" (line {self.lines[row]})"
        return f"file: row {self.first + row + 1}{line}, column {column!r}"


class Table(Protocol):
    """Rows that can be read once.

    Attributes:
        names: of all columns.
    """

    @property
    def names(self) -> Sequence[str]: ...

    def batches(self) -> Iterator[Batch]:
        """All rows in order."""
        ...
