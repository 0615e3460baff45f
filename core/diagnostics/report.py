"""Measurements as JSON."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def as_json(value: Any) -> Any:
    """NumPy arrays as lists, and what is not finite as None."""
    if isinstance(value, dict):
        return {name: as_json(one) for name, one in value.items()}
    if isinstance(value, list):
        return [as_json(one) for one in value]
    if isinstance(value, np.ndarray):
        return as_json(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
