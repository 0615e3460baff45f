import json
import math

import numpy as np
import pytest

from core.store.arrays import as_json, decode, encode
from core.store.models import LearnedValue


@pytest.mark.parametrize(
    "array",
    [
        np.array(1 / 3),
        np.arange(6.0).reshape(2, 3).T,
        np.array([math.nan, math.inf, -0.0]),
        np.array([], np.float32),
        np.array(7, np.int32),
        np.array([[True], [False]]),
        np.arange(3, dtype=">i8"),
    ],
)
def test_arrays_come_back_bit_for_bit(array):
    kept = decode(LearnedValue(**encode(array)))
    assert kept.shape == array.shape
    assert kept.dtype == array.dtype.newbyteorder("<")
    assert kept.tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()


def test_bytes_are_little_endian():
    assert encode(np.array([1], ">u2")) == {"shape": [1], "dtype": "<u2", "data": b"\x01\x00"}


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([object()]), np.array([1j])])
def test_other_dtypes_are_refused(array):
    with pytest.raises(TypeError, match="number type"):
        encode(array)


def test_documents_become_what_jsonb_takes():
    kept = as_json({"a": [math.nan, (math.inf, np.float64(0.5))], 1: "x\0y", "b": np.int64(3), "c": None})
    assert kept == {"a": [None, [None, 0.5]], "1": "x\N{REPLACEMENT CHARACTER}y", "b": 3, "c": None}
    json.dumps(kept, allow_nan=False)
