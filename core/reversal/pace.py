"""How much to hand to the device at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator

_FIRST_STEPS = 64  # of a run; later pieces at most double what has been taken


class Pace:
    """How many steps to hand to the device at a time, so that each call returns within about `seconds`."""

    def __init__(self, seconds: float = 0.5) -> None:
        self.seconds = seconds
        self.steps = 1

    def timed(self, start: int, stop: int, *, backward: bool = False) -> Iterator[tuple[int, int]]:
        """Cut [start, stop) into chunks, last chunk first if `backward`; doubles while chunks are short."""
        while start < stop:
            if backward:
                low, high = max(start, stop - self.steps), stop
            else:  # what diverges early is not to be found out late
                low, high = start, min(stop, start + self.steps, max(2 * start, _FIRST_STEPS))
            began = time.perf_counter()
            yield low, high
            elapsed = time.perf_counter() - began
            if elapsed < self.seconds / 2 and high - low == self.steps:
                self.steps *= 2
            elif elapsed > self.seconds:
                self.steps = max(1, self.steps // 2)
            start, stop = (start, low) if backward else (high, stop)
