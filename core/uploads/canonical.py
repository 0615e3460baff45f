"""The form in which data sets are kept: inputs and then labels, each a .npy array, in one file.

The same numbers of the same type always give the same bytes, so that their SHA-256 names the data. Little-endian, in
C order; labels become 32-bit integers, and targets 64-bit floats. `read` is the inverse of `write`.
"""

from __future__ import annotations

import hashlib
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy

from core.datasets import GivenData, scale_of
from core.errors import InvalidDataset
from core.uploads.arrays import Array, Found, rows
from core.uploads.moments import Moments

MAX_CLASSES = 1000

_LABELS, _TARGETS = np.dtype("<i4"), np.dtype("<f8")
LARGEST = float(np.finfo(np.float32).max)  # gradients are computed in float32, unless asked otherwise


class Canonical(NamedTuple):
    """What was written."""

    sha256: str
    size: int  # bytes
    summary: dict[str, Any]  # shapes, types, classes; JSON values


def write(found: Found, to: BinaryIO) -> Canonical:
    """Check every number and write it.

    Raises:
        InvalidDataset: a value that cannot be learned from, or a source that is damaged.
    """
    inputs, labels = found.inputs, found.labels
    if labels.dtype.kind not in "iu" and not found.are_targets:
        raise InvalidDataset(
            f"{labels.entry}: is of type {labels.dtype}; labels are integers: use .astype(int), or name the array "
            "targets if it holds numbers to fit"
        )
    dtype = inputs.dtype.newbyteorder("<")
    out = _Hashed(to)
    out.header(dtype, inputs.shape)
    largest, first = 0.0, 0
    for chunk in rows(inputs):
        largest = max(largest, _largest(chunk, inputs.entry, first))
        out.numbers(chunk.astype(dtype, copy=False))
        first += len(chunk)
    described = _write_targets(labels, out) if found.are_targets else _write_classes(labels, out)
    summary = {
        "inputs": {"shape": list(inputs.shape), "dtype": dtype.name},
        "scale": scale_of(dtype, largest),
    }
    return Canonical(out.digest.hexdigest(), out.size, summary | described)


def _write_classes(labels: Array, out: _Hashed) -> dict[str, Any]:
    out.header(_LABELS, labels.shape)
    counts, first = np.zeros(MAX_CLASSES, np.int64), 0
    for chunk in rows(labels):
        _check_labels(chunk, labels.entry, first)
        counts += np.bincount(chunk.astype(np.int64), minlength=MAX_CLASSES)
        out.numbers(chunk.astype(_LABELS))
        first += len(chunk)
    (present,) = np.nonzero(counts)
    if len(present) < 2:
        raise InvalidDataset(
            f"{labels.entry}: are all {present[0]}; there is nothing to tell apart with fewer than two classes"
        )
    num_classes = int(present[-1]) + 1
    described = {"shape": list(labels.shape), "dtype": _LABELS.name}
    return {"labels": described, "class_counts": counts[:num_classes].tolist()}


def _write_targets(targets: Array, out: _Hashed) -> dict[str, Any]:
    out.header(_TARGETS, targets.shape)
    moments, first = Moments(), 0
    for chunk in rows(targets):
        _largest(chunk, targets.entry, first)
        moments.add(chunk.astype(_TARGETS))
        out.numbers(chunk.astype(_TARGETS))
        first += len(chunk)
    if moments.lowest == moments.highest:
        raise InvalidDataset(f"{targets.entry}: are all {moments.lowest:g}; there is nothing to fit")
    described = {"shape": list(targets.shape), "dtype": _TARGETS.name}
    return {"labels": described, "class_counts": [], "target": moments.described() | {"missing": 0}}


def read(file: BinaryIO, sha256: str) -> GivenData:
    """The data, from a file that `write` wrote and whose digest was verified."""
    inputs, labels = (npy.read_array(file, allow_pickle=False) for _ in range(2))
    return GivenData(inputs, labels, sha256)


class _Hashed:
    """A file that knows the digest of what was written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)

    def header(self, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        described = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(self, described)

    def numbers(self, chunk: np.ndarray) -> None:
        self.write(chunk.tobytes())


def _largest(chunk: np.ndarray, entry: str, first: int) -> float:
    """Largest magnitude of some examples, the first of which has this number.

    Raises:
        InvalidDataset: one is not finite, or beyond float32.
    """
    with np.errstate(invalid="ignore"):  # a signalling NaN
        largest = max(-float(chunk.min()), float(chunk.max()))  # NaN if one is
    if not largest <= LARGEST:
        by_row = chunk.reshape(len(chunk), -1)
        fine = (by_row <= np.float64(LARGEST)) & (by_row >= np.float64(-LARGEST))
        row = int(np.flatnonzero(~fine.all(axis=1))[0])
        raise InvalidDataset(
            f"{entry}: example {first + row} holds NaN, an infinity or a number beyond float32; drop or mend it"
        )
    return largest


def _check_labels(chunk: np.ndarray, entry: str, first: int) -> None:
    wrong = np.flatnonzero((chunk < 0) | (chunk >= MAX_CLASSES))
    if len(wrong):
        raise InvalidDataset(
            f"{entry}: example {first + int(wrong[0])} has label {chunk[wrong[0]]}; number the classes 0 to "
            f"{MAX_CLASSES - 1} at most"
        )
