"""The header of a .npy array. NumPy parses it, once its length is known to be harmless."""

from __future__ import annotations

import io
import struct
import tokenize
from collections.abc import Callable

import numpy as np
from numpy.lib import format as npy

from core.errors import InvalidDataset
from core.uploads.arrays import Array, Source

_MAX_HEADER_BYTES = 4096  # NumPy's own have 128; it would read up to 4 GiB before it looks
_MAX_EXTENT = 1 << 40
_LENGTHS: dict[tuple[int, int], tuple[str, Callable[..., tuple[tuple[int, ...], bool, np.dtype]]]] = {
    (1, 0): ("<H", npy.read_array_header_1_0),
    (2, 0): ("<I", npy.read_array_header_2_0),
}
_WRONG = (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError, tokenize.TokenError)


def read_header(source: Source) -> tuple[Array, int]:
    """The array that begins here, its numbers unread; and how many bytes its header has.

    Raises:
        InvalidDataset: not a .npy array of plain numbers.
    """
    start = source.exactly(len(npy.MAGIC_PREFIX) + 2)
    version = (start[-2], start[-1])
    if not start.startswith(npy.MAGIC_PREFIX) or version not in _LENGTHS:
        raise InvalidDataset(f"{source.entry}: is not a .npy array of plain numbers; save it with numpy.savez")
    code, parse = _LENGTHS[version]
    length = source.exactly(struct.calcsize(code))
    (count,) = struct.unpack(code, length)
    if count > _MAX_HEADER_BYTES:
        raise InvalidDataset(
            f"{source.entry}: has a header of {count} bytes; save it as an array of plain numbers"
        )
    header = source.exactly(count)
    if b"L" in header:  # Python 2's long integers, which NumPy would mend with a warning
        raise InvalidDataset(f"{source.entry}: has a header of Python 2; save it again with Python 3")
    try:
        shape, fortran_order, dtype = parse(io.BytesIO(length + header), max_header_size=_MAX_HEADER_BYTES)
    except _WRONG as error:
        raise InvalidDataset(f"{source.entry}: its header is not one of a .npy array; save it again") from error
    if dtype.kind not in "biuf" or dtype.itemsize > 8 or dtype.shape:
        raise InvalidDataset(
            f"{source.entry}: is of type {_name(dtype)}; convert it to integers, or floats of at most 64 bits"
        )
    if dtype.kind == "b":
        dtype = np.dtype(np.uint8)  # its bytes may be others than 0 and 1
    if any(type(extent) is not int or not 0 <= extent <= _MAX_EXTENT for extent in shape):
        raise InvalidDataset(f"{source.entry}: declares a shape that is none; save it again")
    if len(shape) > 3:
        raise InvalidDataset(f"{source.entry}: has {len(shape)} axes; reshape it to three at most")
    return Array(shape, dtype, fortran_order, source), len(start) + len(length) + count


def _name(dtype: np.dtype) -> str:
    return str(dtype)[:40] if str(dtype)[:40].isprintable() else dtype.kind
