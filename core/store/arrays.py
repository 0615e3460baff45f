"""Arrays and documents in the form that Postgres keeps: raw little-endian bytes, and JSON without NaN."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core.store.models import ArrayColumns

_KINDS = "biuf"  # bool, integers, floats: dtypes whose name and bytes say everything


def encode(array: np.ndarray) -> dict[str, Any]:
    """The columns of `ArrayColumns`."""
    array = np.asarray(array)
    if array.dtype.kind not in _KINDS:
        raise TypeError(f"cannot keep an array of {array.dtype}; convert it to a NumPy number type")
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return {"shape": list(array.shape), "dtype": little.dtype.str, "data": little.tobytes(order="C")}


def decode(row: ArrayColumns) -> np.ndarray:
    """Inverse of `encode`, bit for bit."""
    return np.frombuffer(row.data, np.dtype(row.dtype)).reshape(row.shape).copy()


def as_json(value: Any) -> Any:
    """`value` as Postgres takes it for JSONB: what is not finite becomes null, NUL characters and halves of surrogate
    pairs a mark.
    """
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, np.generic):
        return as_json(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    return value
