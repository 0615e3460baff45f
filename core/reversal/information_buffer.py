"""Where the bits go: when information buffers are spilled, where spilled bits are kept, and how many there are.

A buffer grows by log2(1/K) bits in a step that decays by K. How large it can be is known from the schedule alone,
so the plan of spills is static: spills fall between segments, and no element of an array ever needs a branch.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.reversal.lifting import LEAST_SCALE, OVERFLOW

SPILL_BITS = 32
_WORTH_SPILLING = 2.0 ** (SPILL_BITS + 6)  # below this a spill would store leading zeros
_FIRST_WINDOW = 1 << 6  # steps looked ahead at first
_LAST_WINDOW = 1 << 14  # steps looked ahead at most
_TAPE_BYTES = 1 << 26  # of values stored whole, kept on the device until a segment ends
_TAPE_STEPS = 1 << 12
_WAITING = (
    4 / LEAST_SCALE
)  # what a buffer of at most 1 may grow to as drift is settled that the plan counted before
NUMBER_BITS = 53  # no number can lose more
_MAX_GROWTH_BITS = 60  # a buffer of at most 52 bits is full before it has grown by this much


class Place(NamedTuple):
    """One group's buffer of one decayed field."""

    field: str
    group: int


class Segment(NamedTuple):
    """Steps [start, stop) that run without touching the host, and what is stored on the host for them."""

    start: int
    stop: int
    spills: tuple[Place, ...]  # low bits of these buffers, before the first step
    forgets: tuple[Place, ...]  # these fields whole, before each step: it decays them to (almost) nothing


class Factors(NamedTuple):
    """What is known of a trajectory's decay factors K before it runs; dicts are {field: [T, groups]}."""

    smallest: dict[
        str, np.ndarray
    ]  # K of the element that decays most, of those not forgotten; 1 if there are none
    forgets: dict[str, np.ndarray]  # whether an element has K < FORGETTING
    bits: dict[str, np.ndarray]  # mean of log2(1/K) over the group's elements, none above NUMBER_BITS
    uniform: tuple[str, ...]  # fields whose K is one number a group
    num_steps: int


@dataclass(frozen=True)
class Plan:
    """Spill plan of a trajectory, with the information-theoretic bound on what it must store."""

    segments: tuple[Segment, ...]
    bound_bits: float  # sum over numbers and steps of log2(1/K)
    sizes: tuple[int, ...]  # elements in each group

    @property
    def spilled_bytes(self) -> int:
        """Bytes that the host will hold in the end, at most."""
        low_bits = sum(self.sizes[place.group] for segment in self.segments for place in segment.spills)
        whole = sum(
            self.sizes[place.group] * (segment.stop - segment.start)
            for segment in self.segments
            for place in segment.forgets
        )
        return SPILL_BITS // 8 * low_bits + 8 * whole

    def cut_at(self, steps: Iterable[int]) -> Plan:
        """The same plan, with a segment that begins at each of these steps."""
        cuts, segments = sorted(set(steps)), list[Segment]()
        for whole in self.segments:
            inside = cuts[bisect_right(cuts, whole.start) : bisect_left(cuts, whole.stop)]
            bounds = [whole.start, *inside, whole.stop]
            segments += [
                Segment(start, stop, whole.spills if start == whole.start else (), whole.forgets)
                for start, stop in pairwise(bounds)
            ]
        return replace(self, segments=tuple(segments))

    def joined_but_at(self, steps: Container[int]) -> Plan:
        """The same plan in fewer segments: what was cut for nothing is put together again."""
        segments: list[Segment] = []
        for segment in self.segments:
            apart = segment.start in steps or segment.spills or segment.forgets
            if segments and not apart and not segments[-1].forgets:
                segments[-1] = segments[-1]._replace(stop=segment.stop)
            else:
                segments.append(segment)
        return replace(self, segments=tuple(segments))

    def parts(self, steps: Container[int]) -> Iterator[Plan]:
        """The plan in parts that end at these steps, where a segment does."""
        part: list[Segment] = []
        for segment in self.segments:
            part.append(segment)
            if segment.stop in steps or segment is self.segments[-1]:
                yield replace(self, segments=tuple(part))
                part = []


def plan_spills(factors: Factors, sizes: list[int], start: int = 0, stop: int | None = None) -> Plan:
    """Plan the spills of steps [start, stop) by interval arithmetic, from empty buffers on.

    Args:
        factors: of the whole trajectory.
        sizes: elements in each group.
        start: first step.
        stop: after the last step; the end unless given.
    """
    fields = list(factors.smallest)
    places = [Place(field, group) for field in fields for group in range(len(sizes))]

    def columns(known: dict[str, np.ndarray]) -> np.ndarray:
        nothing = np.empty((len(range(factors.num_steps)[start:stop]), 0))
        return np.concatenate([nothing, *(known[field][start:stop] for field in fields)], axis=1)

    forgets, bits = columns(factors.forgets).astype(bool), columns(factors.bits)
    if start == 0:  # memory at rest holds nothing
        memory = np.array([place.field != "position" for place in places], bool)
        bits[:1] = np.where(forgets[:1] & memory, 0.0, bits[:1])
    bound = float((bits.sum(axis=0) * np.tile(sizes, len(fields))).sum())
    growth = 1 / columns(factors.smallest)
    growth_bits = np.log2(growth)
    # what a decay adds to |buffer|/K: the error of its first rounding, divided by K, and of its second
    slack = growth + 2
    changes = np.flatnonzero((forgets[1:] != forgets[:-1]).any(axis=1)) + 1

    segments: list[Segment] = []
    # upper bound of |buffer| at `at`, one for each place, once all drift is settled (see `core.reversal.drift`): that
    # counts a decay no later than it reaches the buffer, and no less than settling many at once adds
    magnitudes = np.full(len(places), _WAITING if start else 0.0)
    at, num_steps = 0, len(forgets)
    while at < num_steps:
        full = magnitudes * growth[at] + slack[at] > OVERFLOW
        chosen = full | (full.any() & (magnitudes >= _WORTH_SPILLING))
        magnitudes = np.where(chosen, magnitudes * 2.0**-SPILL_BITS + _WAITING, magnitudes)
        next_change = np.searchsorted(changes, at, side="right")
        end = int(changes[next_change]) if next_change < len(changes) else num_steps
        forgotten = [place for place, forget in zip(places, forgets[at], strict=True) if forget]
        if forgotten:
            end = min(end, at + tape_steps(sum(sizes[place.group] for place in forgotten)))
        steps, magnitudes = _grow(magnitudes, growth_bits[at:end], slack[at:end])
        spills = tuple(place for place, choose in zip(places, chosen, strict=True) if choose)
        segments.append(Segment(start + at, start + at + steps, spills, tuple(forgotten)))
        at += steps
    return Plan(tuple(segments), bound, tuple(sizes))


def tape_steps(numbers: int) -> int:
    """Steps for which `numbers` values, stored whole in each, are kept on the device."""
    return max(1, min(_TAPE_STEPS, _TAPE_BYTES // (8 * max(numbers, 1))))


def _grow(magnitudes: np.ndarray, growth_bits: np.ndarray, slack: np.ndarray) -> tuple[int, np.ndarray]:
    """Steps, at least one, that buffers can take before one of them might be full; and their bounds after these.

    Where buffers fill fast a look at few steps is enough, and there are many segments; so it starts with few.
    """
    most = min(len(growth_bits), _LAST_WINDOW)
    window = min(_FIRST_WINDOW, most)
    steps, bounds = _grow_within(magnitudes, growth_bits[:window], slack[:window])
    while steps == window < most:
        window = min(2 * window, most)
        steps, bounds = _grow_within(magnitudes, growth_bits[:window], slack[:window])
    return steps, bounds


def _grow_within(magnitudes: np.ndarray, growth_bits: np.ndarray, slack: np.ndarray) -> tuple[int, np.ndarray]:
    """The same within the steps given.

    A bound follows B ← B·growth + slack; divided by the growth so far it is a running sum.
    """
    grown = np.cumsum(growth_bits, axis=0)
    steps = max(1, int((grown.max(axis=1, initial=0.0) < _MAX_GROWTH_BITS).sum()))
    factor = np.exp2(grown[:steps])
    sums = magnitudes + np.cumsum(slack[:steps] / factor, axis=0)
    bounds = factor * (1 + 1e-9) * sums  # a hair above what rounding could have made of it
    steps = max(1, int((bounds.max(axis=1, initial=0.0) <= OVERFLOW).cumprod().sum()))
    return steps, bounds[steps - 1]


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
def bits_in_use(buffers: list[jax.Array]) -> jax.Array:
    """Bits that information buffers still hold: each group's largest element, sign included, times its size."""

    def bits(buffer: jax.Array) -> jax.Array:
        largest = jnp.max(jnp.abs(buffer), initial=0.0)
        return jnp.where(largest > 0, jnp.ceil(jnp.log2(largest + 1)) + 1, 0) * buffer.size

    return sum(map(bits, buffers), jnp.zeros(()))


def narrowed(integers: jax.Array) -> jax.Array:
    """Integers in the narrowest type that holds them; none at all where every one is zero.

    What no integer type holds, as a diverged run leaves it, stays as it is.
    """
    largest = float(_largest(integers))
    if largest == 0:
        return jnp.zeros((0,), jnp.int8)
    kinds = (kind for kind in ("int8", "int16", "int32", "int64") if largest <= np.iinfo(kind).max)
    return integers.astype(next(kinds, "float64"))


def widened(stored: jax.Array | np.ndarray, shape: tuple[int, ...]) -> jax.Array:
    """Inverse of `narrowed`."""
    return jnp.asarray(stored).astype(jnp.float64) if stored.size else jnp.zeros(shape)


@jax.jit
def _largest(integers: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(integers), initial=0.0)
