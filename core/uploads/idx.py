"""The two arrays of a pair of IDX files, as MNIST is published, compressed by gzip or not."""

from __future__ import annotations

import gzip
import struct
from typing import BinaryIO, cast

import numpy as np

from core.errors import InvalidDataset
from core.uploads.arrays import Array, Found, Source, check_sizes

_GZIP = b"\x1f\x8b"
MAGICS = (b"\0\0", _GZIP)
_FEXTRA, _FNAME, _FCOMMENT = 4, 8, 16  # flags of RFC 1952
_MOST_GZIP_HEADER = 1 << 17
_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def opened(images: BinaryIO, labels: BinaryIO, max_bytes: int) -> Found:
    """Images and labels, their sizes checked and their numbers unread.

    Raises:
        InvalidDataset: not IDX files, or not a pair.
        DatasetTooLarge: more than `max_bytes` of numbers, or a decompression bomb.
    """
    compressed_bytes = images.seek(0, 2) + labels.seek(0, 2)
    found = Found(_array(images, "images"), _array(labels, "labels"))
    check_sizes(found.inputs, found.labels, compressed_bytes=compressed_bytes, max_bytes=max_bytes)
    return found


def _array(file: BinaryIO, entry: str) -> Array:
    file.seek(0)
    compressed = file.read(2) == _GZIP
    file.seek(0)
    if compressed:
        _check_gzip_header(file, entry)
    source = Source(cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb")) if compressed else file, entry)
    zero, also_zero, code, num_axes = source.exactly(4)
    if zero or also_zero or code not in _DTYPES or not 1 <= num_axes <= 3:
        raise InvalidDataset(f"{entry}: is not an IDX file of numbers with one to three axes")
    shape = struct.unpack(f">{num_axes}I", source.exactly(4 * num_axes))
    return Array(shape, np.dtype(_DTYPES[code]), False, source)


def _check_gzip_header(file: BinaryIO, entry: str) -> None:
    """Refuse a header whose texts do not end soon: `gzip` reads them byte by byte, however long they are."""
    start = file.read(_MOST_GZIP_HEADER)
    file.seek(0)
    flags, place = start[3] if len(start) > 3 else 0, 10
    if flags & _FEXTRA:
        place += 2 + int.from_bytes(start[place : place + 2], "little")
    for text in (_FNAME, _FCOMMENT):
        if flags & text:
            place = start.find(b"\0", place) + 1
            if not place:
                raise InvalidDataset(
                    f"{entry}: has a gzip header of more than {_MOST_GZIP_HEADER} bytes; compress it again"
                )
