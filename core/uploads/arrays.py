"""An array of an upload: what its header declares, and its numbers as a stream of rows."""

from __future__ import annotations

import math
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from core.errors import DatasetTooLarge, InvalidDataset

MAX_FEATURES = 1 << 20
"""Numbers of one example: a row is held whole."""

_CHUNK_BYTES = 1 << 20
_MAX_RATIO = 200  # of deflate; images of real things stay below 20
_HARMLESS_BYTES = 16 << 20  # whatever they are compressed to: labels in order shrink to nothing
_UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, zlib.error, zipfile.BadZipFile, OverflowError)


class Source:
    """A stream of an upload. Its damage is told as such."""

    def __init__(self, stream: BinaryIO, entry: str) -> None:
        self._stream, self.entry = stream, entry

    def exactly(self, count: int) -> bytes:
        """The next `count` bytes.

        Raises:
            InvalidDataset: there are fewer, or they cannot be read.
        """
        data = self._read(count)
        if len(data) != count:
            raise InvalidDataset(f"{self.entry}: ends before all that it declares; save it again")
        return data

    def end(self) -> None:
        """Raise InvalidDataset unless the stream ends here. Checks what the container knows of it, such as a CRC."""
        if self._read(1):
            raise InvalidDataset(f"{self.entry}: holds more than it declares; save it again")

    def _read(self, count: int) -> bytes:
        try:
            return self._stream.read(count)
        except _UNREADABLE as error:
            raise InvalidDataset(f"{self.entry}: cannot be read ({_brief(error)}); save it again") from error


class Array(NamedTuple):
    """What a header declares, and the source that stands at the first number."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool  # the first axis varies fastest
    source: Source

    @property
    def entry(self) -> str:
        """How errors call it."""
        return self.source.entry

    @property
    def nbytes(self) -> int:
        """Of all numbers, as declared."""
        return math.prod(self.shape) * self.dtype.itemsize


class Found(NamedTuple):
    """The two arrays of an upload."""

    inputs: Array
    labels: Array
    are_targets: bool = False  # numbers to fit, and no classes


def check_sizes(inputs: Array, labels: Array, *, compressed_bytes: int, max_bytes: int) -> None:
    """Hold what the headers declare against each other and the limits, before anything is read or allocated.

    No more is read than they declare, so that this bounds what a file can inflate to.

    Raises:
        InvalidDataset: shapes that are no data set.
        DatasetTooLarge: more than `max_bytes`, or far more than `compressed_bytes` can honestly hold.
    """
    if len(inputs.shape) not in (2, 3):
        raise InvalidDataset(
            f"{inputs.entry}: has shape {inputs.shape}; examples × features, or examples × height × width, is needed"
        )
    if len(labels.shape) != 1:
        raise InvalidDataset(f"{labels.entry}: has shape {labels.shape}; one whole number an example is needed")
    if 0 in inputs.shape:
        raise InvalidDataset(
            f"{inputs.entry}: has shape {inputs.shape} and so no numbers; send at least one example"
        )
    if inputs.shape[0] != labels.shape[0]:
        raise InvalidDataset(
            f"{inputs.entry} holds {inputs.shape[0]} examples, {labels.entry} {labels.shape[0]} labels; "
            "send as many of one as of the other"
        )
    if math.prod(inputs.shape[1:]) > MAX_FEATURES:
        raise DatasetTooLarge(
            f"{inputs.entry}: {math.prod(inputs.shape[1:])} numbers an example, more than {MAX_FEATURES}; use fewer"
        )
    total = inputs.nbytes + labels.nbytes
    if total > max_bytes:
        raise DatasetTooLarge(
            f"{inputs.entry} and {labels.entry} declare {total} bytes, more than {max_bytes}; send fewer examples, or "
            "a smaller dtype"
        )
    check_inflation(f"{inputs.entry} and {labels.entry}", total, compressed_bytes)


def check_inflation(what: str, total: int, compressed_bytes: int) -> None:
    """Raise DatasetTooLarge where so many bytes come of far fewer."""
    if total > max(_HARMLESS_BYTES, _MAX_RATIO * compressed_bytes):
        raise DatasetTooLarge(
            f"{what} inflate {compressed_bytes} bytes to {total}, more than {_MAX_RATIO} times as much; send them "
            "uncompressed"
        )


def rows(array: Array) -> Iterator[np.ndarray]:
    """All examples in order, some at a time, [k, ...] in C order."""
    if array.fortran_order and len(array.shape) > 1:
        yield from _rows_of_columns(array)
        return
    per_row = math.prod(array.shape[1:]) * array.dtype.itemsize
    for count in _counts(array):
        data = array.source.exactly(count * per_row)
        yield np.frombuffer(data, array.dtype).reshape(count, *array.shape[1:])
    array.source.end()


def _rows_of_columns(array: Array) -> Iterator[np.ndarray]:
    """The same of numbers that come column by column: these must all have come before the first row is whole."""
    with tempfile.TemporaryFile() as file:
        left = array.nbytes
        while left:
            left -= file.write(array.source.exactly(min(left, _CHUNK_BYTES)))
        array.source.end()
        file.flush()
        whole = np.memmap(file, array.dtype, "r", shape=array.shape, order="F")
        start = 0
        for count in _counts(array):
            yield np.ascontiguousarray(whole[start : start + count])
            start += count


def _counts(array: Array) -> Iterator[int]:
    """How many rows to take at a time."""
    left = array.shape[0]
    most = max(1, _CHUNK_BYTES // (math.prod(array.shape[1:]) * array.dtype.itemsize))
    while left:
        count = min(left, most)
        yield count
        left -= count


def _brief(error: BaseException) -> str:
    return "".join(one for one in str(error)[:80] if one.isprintable()) or type(error).__name__
