"""How things are measured: seconds in rounds, ratios within a round, peaks of resident memory, results as JSON."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

RESULTS = Path(__file__).parent / "results"
_CLEAR_PEAK = "5"  # written to clear_refs, it lets VmHWM start again at what is resident now
_MMAP_THRESHOLD = -3  # of glibc's mallopt
_PAGES_OF_THEIR_OWN = 1 << 16  # bytes that an array must have

Methods = dict[str, Callable[[], Any]]


def clock(method: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    jax.block_until_ready(method())
    return time.perf_counter() - began


def in_rounds(methods: Methods, repeats: int) -> dict[str, list[float]]:
    """Seconds of every method in every round. A round takes the methods in turn, so that noise falls on all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, method in methods.items():
            clock(method)  # what the method before it did to caches and free memory is not its own cost
            seconds[name].append(clock(method))
    return seconds


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Of each method's seconds."""
    return {name: statistics.median(times) for name, times in seconds.items()}


def ratios(seconds: dict[str, list[float]], base: str) -> dict[str, float]:
    """Of each method's seconds to the base's, taken within a round: their medians."""
    return {
        name: statistics.median(one / other for one, other in zip(times, seconds[base], strict=True))
        for name, times in seconds.items()
    }


def once(method: Callable[[], Any]) -> tuple[Any, float, int]:
    """Result, seconds, and the bytes by which resident memory peaked above what it was, of a single call."""
    gc.collect()
    libc = ctypes.CDLL(None)
    # arrays give their pages back when they are freed, and pages freed before do not hide what this call takes
    libc.mallopt(_MMAP_THRESHOLD, _PAGES_OF_THEIR_OWN)
    libc.malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK)
        before, began = _resident("VmRSS"), time.perf_counter()
        result = jax.block_until_ready(method())
        return result, time.perf_counter() - began, _resident("VmHWM") - before
    finally:
        libc.mallopt(_MMAP_THRESHOLD, 1 << 25)


def peak_rise(method: Callable[[], Any]) -> int:
    """Bytes by which resident memory peaks during a call above what it was."""
    return once(method)[2]


def printed_by(module: str, *arguments: str) -> Any:
    """What a module prints as JSON in a process of its own, in which every array gets pages of its own.

    Peaks of a few tens of megabytes repeat within 5 % there. In a process that has allocated before they vary by half,
    with what it has freed.
    """
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(_PAGES_OF_THEIR_OWN)}
    command = [sys.executable, "-m", module, *arguments]
    return json.loads(
        subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout
    )


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def write(file: Path, found: Any) -> None:
    """As JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
