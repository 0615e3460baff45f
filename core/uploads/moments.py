"""Mean, deviation and range of numbers that come some at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


class Moments:
    """Mean and deviation of numbers that come some at a time (Chan, Golub and LeVeque 1983)."""

    def __init__(self) -> None:
        self.count, self.missing, self.mean, self._squares = 0, 0, 0.0, 0.0
        self.lowest, self.highest = math.inf, -math.inf

    def add(self, numbers: np.ndarray) -> None:
        """Float64; NaN is missing."""
        known = numbers[~np.isnan(numbers)]
        self.missing += len(numbers) - len(known)
        if not len(known):
            return
        mean, total = float(known.mean()), self.count + len(known)
        apart = mean - self.mean
        self._squares += float(np.square(known - mean).sum()) + apart**2 * self.count * len(known) / total
        self.mean += apart * len(known) / total
        self.count = total
        self.lowest, self.highest = min(self.lowest, float(known.min())), max(self.highest, float(known.max()))

    @property
    def deviation(self) -> float:
        """Standard deviation."""
        return math.sqrt(self._squares / self.count) if self.count else 0.0

    def described(self) -> dict[str, Any]:
        """As JSON values."""
        if not self.count:
            return {"missing": self.missing, "mean": None, "deviation": None, "min": None, "max": None}
        return {
            "missing": self.missing,
            "mean": self.mean,
            "deviation": self.deviation,
            "min": self.lowest,
            "max": self.highest,
        }
