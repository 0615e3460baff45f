"""A table as the two arrays that are kept, by what its columns are for.

It is read once, some rows at a time: its numbers go to a file, and what is known only at the end (means, categories,
classes) is put in when they are read back.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from core.errors import DatasetTooLarge, InvalidDataset
from core.uploads.arrays import Array, Found, Source, check_inflation, check_sizes
from core.uploads.batches import Batch, Table
from core.uploads.columns import Categorical, Numeric, Target
from core.uploads.roles import Assigned, Roles, assign

SHOWN_ROWS = 5
SHOWN_COLUMNS = 256
_SHOWN_CHARACTERS = 40
_CHUNK_BYTES = 1 << 20
_FLOAT, _WHOLE = np.dtype("<f8"), np.dtype("<i8")


class Described(NamedTuple):
    """What is known of a table beside its numbers, as JSON values."""

    classes: list[str] | None  # names, where they are more than their numbers
    columns: list[dict[str, Any]]  # the first of them
    num_columns: int
    rows: list[list[str]]  # the first of them, as they were sent


@contextmanager
def opened(table: Table, roles: Roles, compressed_bytes: int, max_bytes: int) -> Iterator[tuple[Found, Described]]:
    """Inputs and labels, or targets, their sizes checked and every value too.

    Args:
        table: unread.
        roles: what its columns are for.
        compressed_bytes: of the file it comes from.
        max_bytes: of both arrays.

    Raises:
        InvalidDataset: a value that cannot be learned from; names its row and column.
        DatasetTooLarge: more than `max_bytes`, or far more than `compressed_bytes` can honestly hold.
    """
    assigned = assign(roles, table.names)
    fill = roles.missing == "mean"
    features = [
        (Categorical if place in assigned.categorical else Numeric)(table.names[place], fill)
        for place in assigned.features
    ]
    target = Target(table.names[assigned.target], roles.task)
    with tempfile.TemporaryFile() as scratch, tempfile.TemporaryFile() as of_target:
        count, rows = 0, list[list[str]]()
        for batch in table.batches():
            count += len(batch)
            _check_size(count, len(features), compressed_bytes, max_bytes)
            rows += _first_rows(batch, SHOWN_ROWS - len(rows))
            values = [
                one.numbers(batch, batch.columns[place])
                for one, place in zip(features, assigned.features, strict=True)
            ]
            scratch.write(np.stack(values, axis=1, dtype=_FLOAT).tobytes())
            of_target.write(target.numbers(batch, batch.columns[assigned.target]).astype(_FLOAT).tobytes())
        if not count:
            raise InvalidDataset("file: names columns and has no rows; send at least one of each class")
        for one in features:
            one.finish()
        classes = target.finish()
        width = sum(one.width for one in features)
        inputs = Array((count, width), _FLOAT, False, _source(_encoded(scratch, features, width)))
        labels = Array(
            (count,), _FLOAT if target.is_number else _WHOLE, False, _source(_encoded_target(of_target, target))
        )
        check_sizes(inputs, labels, compressed_bytes=max_bytes, max_bytes=max_bytes)
        described = Described(
            None if classes is None else list(classes),
            [_described(table, place, assigned, features, target) for place in range(len(table.names))][
                :SHOWN_COLUMNS
            ],
            len(table.names),
            rows,
        )
        yield Found(inputs, labels, are_targets=target.is_number), described


def _check_size(rows: int, columns: int, compressed_bytes: int, max_bytes: int) -> None:
    total = rows * (columns + 1) * _FLOAT.itemsize
    if total > max_bytes:
        raise DatasetTooLarge(
            f"file: row {rows} makes {total} bytes of numbers, more than {max_bytes}; send fewer rows, or name columns "
            "as ignored"
        )
    check_inflation("file", total, compressed_bytes)


def _first_rows(batch: Batch, most: int) -> list[list[str]]:
    return [
        [_as_sent(values[row]) for values in batch.columns[:SHOWN_COLUMNS]] for row in range(min(most, len(batch)))
    ]


def _as_sent(value: Any) -> str:
    text = value if isinstance(value, str) else ("" if np.isnan(value) else repr(float(value)))
    shown = "".join(one if one.isprintable() else "�" for one in text[:_SHOWN_CHARACTERS])
    return shown if len(text) <= _SHOWN_CHARACTERS else shown + "…"


def _described(
    table: Table, place: int, assigned: Assigned, features: list[Numeric | Categorical], target: Target
) -> dict[str, Any]:
    name = {"name": table.names[place]}
    if place == assigned.target:
        return name | {"role": "target"} | target.described()
    if place in assigned.features:
        return name | {"role": "feature"} | features[assigned.features.index(place)].described()
    return name | {"role": "ignored", "type": None, "missing": None}


def _encoded(scratch: BinaryIO, features: list[Numeric | Categorical], width: int) -> Iterator[bytes]:
    rows = max(1, _CHUNK_BYTES // (max(width, len(features)) * _FLOAT.itemsize))
    for numbers in _chunks(scratch, rows, len(features)):
        each = [one.encoded(numbers[:, place]) for place, one in enumerate(features)]
        yield np.concatenate(each, axis=1, dtype=_FLOAT).tobytes()


def _encoded_target(scratch: BinaryIO, target: Target) -> Iterator[bytes]:
    for numbers in _chunks(scratch, _CHUNK_BYTES // (2 * _FLOAT.itemsize), 2):
        yield target.encoded(numbers).tobytes()


def _chunks(scratch: BinaryIO, rows: int, columns: int) -> Iterator[np.ndarray]:
    scratch.seek(0)
    while data := scratch.read(rows * columns * _FLOAT.itemsize):
        yield np.frombuffer(data, _FLOAT).reshape(-1, columns)


class _Pieces:
    """A stream of bytes that come in pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._left = pieces, b""

    def read(self, count: int) -> bytes:
        while len(self._left) < count and (piece := next(self._pieces, None)) is not None:
            self._left += piece
        data, self._left = self._left[:count], self._left[count:]
        return data


def _source(pieces: Iterator[bytes]) -> Source:
    return Source(_Pieces(pieces), "file")  # type: ignore[arg-type]
