"""Where the bits go: when information buffers are spilled, where spilled bits are kept, and how many there are.

A buffer grows by log2(1/K) bits in a step that decays by K. How large it can be is known from the schedule alone,
so the plan of spills is static: spills fall between segments, and no element of an array ever needs a branch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.reversal.lifting import FORGETTING, OVERFLOW

SPILL_BITS = 32
_WORTH_SPILLING = 2.0 ** (SPILL_BITS + 6)  # below this a spill would store leading zeros
_GROWTH_WINDOW = 1 << 14  # steps looked ahead at a time
_MAX_GROWTH_BITS = 60  # a buffer of at most 52 bits is full before it has grown by this much


class Place(NamedTuple):
    """One group's buffer of one decayed field."""

    field: str
    group: int


class Segment(NamedTuple):
    """Steps [start, stop) that run without touching the host, and what is stored on the host before them."""

    start: int
    stop: int
    spills: tuple[Place, ...]  # low bits of these buffers
    forgets: tuple[Place, ...]  # these fields whole: the segment is one step that decays them to (almost) nothing


@dataclass(frozen=True)
class Plan:
    """Spill plan of a trajectory, with the information-theoretic bound on what it must store."""

    segments: tuple[Segment, ...]
    bound_bits: float  # sum over parameters and steps of log2(1/K)


def plan_spills(
    smallest: dict[str, np.ndarray], mean_bits: dict[str, np.ndarray], sizes: list[int], num_steps: int
) -> Plan:
    """Plan the spills of a trajectory by interval arithmetic.

    Args:
        smallest: {field: [T, groups]}, each step's smallest decay factor K in a group.
        mean_bits: {field: [T, groups]}, each step's mean of log2(1/K) over the group's elements.
        sizes: elements in each group.
        num_steps: T.
    """
    bound = sum(float((bits.sum(axis=0) * sizes).sum()) for bits in mean_bits.values())
    places = [Place(field, group) for field in smallest for group in range(len(sizes))]
    factors = np.concatenate(list(smallest.values()), axis=1)
    forgets = factors < FORGETTING
    growth = np.where(forgets, 1.0, 1 / np.where(forgets, 1.0, factors))
    # what a decay adds to |buffer|/K: the error of its first rounding, divided by K, and of its second
    slack = np.where(forgets, 0.0, growth + 2)
    forgetful = np.flatnonzero(forgets.any(axis=1))

    segments: list[Segment] = []
    magnitudes = np.zeros(len(places))  # upper bound of |buffer| at `start`, one for each place
    start = 0
    while start < num_steps:
        spills: list[Place] = []
        full = magnitudes * growth[start] + slack[start] > OVERFLOW
        if full.any():
            chosen = full | (magnitudes >= _WORTH_SPILLING)
            magnitudes = np.where(chosen, magnitudes * 2.0**-SPILL_BITS + 1, magnitudes)
            spills = [place for place, choose in zip(places, chosen, strict=True) if choose]
        next_forgetful = np.searchsorted(forgetful, start)
        end = int(forgetful[next_forgetful]) if next_forgetful < len(forgetful) else num_steps
        forgotten: list[Place] = []
        if end == start:
            end = start + 1
            forgotten = [place for place, forget in zip(places, forgets[start], strict=True) if forget]
        stop, magnitudes = _grow(magnitudes, growth[start:end], slack[start:end])
        segments.append(Segment(start, start + stop, tuple(spills), tuple(forgotten)))
        start += stop
    return Plan(tuple(segments), bound)


def _grow(magnitudes: np.ndarray, growth: np.ndarray, slack: np.ndarray) -> tuple[int, np.ndarray]:
    """Steps, at least one, that buffers can take before one of them might be full; and their bounds after these.

    A bound follows B ← B·growth + slack; divided by the growth so far it is a running sum.
    """
    window = _GROWTH_WINDOW
    grown = np.cumsum(np.log2(growth[:window]), axis=0)
    steps = max(1, int((grown.max(axis=1) < _MAX_GROWTH_BITS).sum()))
    factor = np.exp2(grown[:steps]) * (1 + 1e-9)  # a hair above what rounding could have made of it
    bounds = factor * (magnitudes + np.cumsum(slack[:steps] / np.exp2(grown[:steps]), axis=0))
    steps = max(1, int((bounds.max(axis=1) <= OVERFLOW).cumprod().sum()))
    return steps, bounds[steps - 1]


class HostStore:
    """A stack of arrays in host memory. Copies are started at once and awaited when the next array comes."""

    def __init__(self) -> None:
        self._arrays: list[jax.Array | np.ndarray] = []
        self.bits = 0

    def push(self, array: jax.Array) -> None:
        """Start copying `array` off the device."""
        array.copy_to_host_async()
        if self._arrays:
            self._arrays[-1] = np.asarray(self._arrays[-1])
        self._arrays.append(array)
        self.bits += array.size * array.dtype.itemsize * 8

    def pop(self) -> jax.Array | np.ndarray:
        """The array pushed last."""
        return self._arrays.pop()

    def __len__(self) -> int:
        return len(self._arrays)


@jax.jit
def spill(buffer: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Split a buffer into its high part and its low SPILL_BITS bits (uint32)."""
    high = jnp.floor(buffer * 2.0**-SPILL_BITS)
    return high, (buffer - high * 2.0**SPILL_BITS).astype(jnp.uint32)


@jax.jit
def unspill(high: jax.Array, low: jax.Array) -> jax.Array:
    """Exact inverse of `spill`."""
    return high * 2.0**SPILL_BITS + low.astype(jnp.float64)


@jax.jit
def bits_in_use(buffers: Any) -> jax.Array:
    """Bits that information buffers still hold: each group's largest element, sign included, times its size."""

    def bits(buffer: jax.Array) -> jax.Array:
        largest = jnp.max(jnp.abs(buffer), initial=0.0)
        return jnp.where(largest > 0, jnp.ceil(jnp.log2(largest + 1)) + 1, 0) * buffer.size

    return sum(map(bits, jax.tree.leaves(buffers)), jnp.zeros(()))
