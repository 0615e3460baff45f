"""Tables as comma-separated text: UTF-8, names in the first row, quotes as RFC 4180 has them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import BinaryIO

from core.errors import DatasetTooLarge, InvalidDataset
from core.uploads.batches import MAX_ROWS, Batch
from core.uploads.roles import check_names

_MAX_ROW_BYTES = 1 << 22
_MAX_FIELD = 1 << 12  # characters
_BATCH_CELLS = 1 << 16


class CsvTable:
    """A table in a file that stands at its start."""

    def __init__(self, file: BinaryIO) -> None:
        csv.field_size_limit(_MAX_FIELD)  # of the process
        self._lines = _Lines(file)
        self._reader = csv.reader(self._lines, strict=True)
        first = self._next()
        if first is None:
            raise InvalidDataset("file: is empty; send names of columns in the first row, and rows of values")
        self.names = tuple(name.strip() for name in first)
        check_names(self.names)

    def batches(self) -> Iterator[Batch]:
        """All rows in order, some at a time.

        Raises:
            InvalidDataset: a row with another number of values than there are names, or no CSV at all.
            DatasetTooLarge: more rows than are read.
        """
        most = max(1, _BATCH_CELLS // len(self.names))
        first, rows, lines = 0, list[list[str]](), list[int]()
        while (row := self._next()) is not None:
            if not row:  # an empty line
                continue
            if len(row) != len(self.names):
                raise InvalidDataset(
                    f"file: row {first + len(rows) + 1} (line {self._reader.line_num}) has {len(row)} values, and the "
                    f"first row names {len(self.names)} columns; give every row one value for each column"
                )
            rows.append(row)
            lines.append(self._reader.line_num)
            if len(rows) == most:
                yield Batch(first, list(zip(*rows, strict=True)), lines)
                first, rows, lines = first + len(rows), [], []
                if first > MAX_ROWS:
                    raise DatasetTooLarge(f"file: has more than {MAX_ROWS} rows; send fewer")
        if rows:
            yield Batch(first, list(zip(*rows, strict=True)), lines)

    def _next(self) -> list[str] | None:
        self._lines.begin_row()
        try:
            return next(self._reader, None)
        except csv.Error as error:
            raise InvalidDataset(
                f"file: line {self._reader.line_num} is not CSV ({error}); quote values that hold commas, quotes or "
                'line breaks "so", and double the quotes in them'
            ) from error


class _Lines:
    """Lines with their ends. Those of one row, which are several where a quote holds line breaks, are bounded."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._number, self._bytes = file, 0, 0

    def begin_row(self) -> None:
        """What comes now belongs to another row."""
        self._bytes = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(_MAX_ROW_BYTES + 1)
        if not line:
            raise StopIteration
        self._number, self._bytes = self._number + 1, self._bytes + len(line)
        if self._bytes > _MAX_ROW_BYTES:
            raise InvalidDataset(
                f"file: the row that line {self._number} belongs to has more than {_MAX_ROW_BYTES} bytes; a line break "
                "or a closing quote may be missing before it"
            )
        if b"\0" in line:
            raise InvalidDataset(f"file: line {self._number} holds a zero byte; send text in UTF-8")
        try:
            return line.decode("utf-8-sig" if self._number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InvalidDataset(
                f"file: line {self._number} is not UTF-8 text; save the table as CSV in UTF-8"
            ) from error
