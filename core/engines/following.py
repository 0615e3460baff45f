"""How units follow a training: coarser from the step on that numbers outgrow them, finer where numbers have shrunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from core.engines.units import EXPONENTS, HEADROOM_BITS, OWN_HEADROOM_BITS
from core.reversal.departure import Departure
from core.reversal.information_buffer import Place
from core.reversal.lifting import FRACTION_BITS, LEAST_SCALE, OVERFLOW
from core.reversal.moves import Fixed
from core.reversal.optimizers import Optimizer, State
from core.reversal.states import number_at
from core.reversal.stepping import anatomy
from core.reversal.unit_changes import UnitChange, along

LOOK_EVERY = (
    64  # steps after which second moments are looked at: what decays by 0.8 a step shrinks by 20 bits in them
)
_ROOM_BITS = 14  # that a memory is given which left its range, or has shrunk: what grew may well go on growing
_WORTH_CHANGING = 4  # bits that a unit must become finer by
_BURSTS = 2  # times that a memory may leave its range before its unit no longer becomes finer
_OWN_UNITS_TRIES = 3  # times that a group leaves its range before its weights have no units of their own


@dataclass
class UnitChanges:
    """Changes of units in one run, or in several at once, as found so far.

    Attributes:
        rooms: {step: change}, found where a run left its range.
        refinements: {step: change}, found by looking at numbers every LOOK_EVERY steps.
        looked: the step up to which that was done.
    """

    rooms: dict[int, UnitChange] = field(default_factory=dict)
    refinements: dict[int, UnitChange] = field(default_factory=dict)
    looked: int = 0

    def by_step(self) -> dict[int, UnitChange]:
        """All of them."""
        steps = self.rooms.keys() | self.refinements.keys()
        return {step: _sum(self.rooms.get(step, {}), self.refinements.get(step, {})) for step in steps}

    def rooms_of(self, number: int) -> list[UnitChange]:
        """Of one of several runs, what it was given."""
        mine = (
            {place: bits[number] for place, bits in change.items() if bits[number].any()}
            for change in self.rooms.values()
        )
        return [change for change in mine if change]

    def make_room(self, step: int, room: UnitChange) -> None:
        """Add a change. What later looks found is forgotten, as training goes another way from here on."""
        self.rooms[step] = _sum(self.rooms.get(step, {}), room)
        self.refinements = {at: change for at, change in self.refinements.items() if at <= step}
        self.looked = min(self.looked, step)

    def look(self, step: int, refinement: UnitChange) -> None:
        """Note what a look before this step found."""
        self.looked = step
        if refinement:
            self.refinements[step] = refinement


def room_for(departure: Departure, optimizer: Optimizer, rooms: list[UnitChange], names: list[str]) -> UnitChange:
    """Coarser units from the step on in which a run left its range.

    Whatever has little room left by then gets some, since what grows in one layer grows in the next.

    Args:
        departure: of one run.
        optimizer: whose fields these are.
        rooms: that the run was given before.
        names: of the groups.

    Raises:
        FixedPointOverflow: training diverges: no unit is coarse enough.
    """
    if not np.isfinite(departure.largest).all():
        raise departure.overflow(names, departure.where, _coarsest(departure.where.field))
    found: UnitChange = {}
    for index, name in enumerate(anatomy(optimizer).fields):
        for group, largest in enumerate(departure.largest[index]):
            place = Place(name, group)
            number, left = number_at(departure.state, place), bool(largest >= OVERFLOW)
            exponents = _exponents(number)
            if name in optimizer.unit_per_weight:
                sizes = _sizes(number)
                bits = np.maximum(_needed(sizes, OWN_HEADROOM_BITS if left else HEADROOM_BITS), 0)
                if left:  # what is silent yet gets its group's unit, and after some tries all do
                    own = (sizes > 0) & (sum(place in one for one in rooms) < _OWN_UNITS_TRIES)
                    groups = (exponents + bits).max(initial=EXPONENTS[0], where=sizes > 0)
                    bits = np.where(own, bits, groups - exponents)
            else:
                sizes = np.asarray(largest)
                bits = _needed(sizes, _ROOM_BITS if left and name != "position" else HEADROOM_BITS)
            bits = np.clip(bits, 0, np.maximum(_coarsest(name) - exponents, 0)).astype(np.int16)
            if (np.ldexp(sizes, -bits) >= OVERFLOW).any():
                raise departure.overflow(names, place, _coarsest(name))
            if bits.any():
                found[place] = bits
    return found


def refinement_for(
    state: State, optimizer: Optimizer, largest: np.ndarray, rooms: Mapping[int, UnitChange]
) -> UnitChange:
    """Finer units for memories that have shrunk in every weight of their group. Weights keep theirs, and so do memories
    that have left their range more than once: what comes in bursts would do so after every pause.

    Args:
        state: that was looked at.
        optimizer: whose fields these are.
        largest: largest |integer| of each field and group, [fields, groups] or [S, fields, groups].
        rooms: that were given before this step, by step.
    """
    found: UnitChange = {}
    runs = largest.ndim - 2
    for index, name in enumerate(anatomy(optimizer).fields):
        for group in range(largest.shape[-1] if name != "position" else 0):
            place, sizes = Place(name, group), largest[..., index, group]
            room = OWN_HEADROOM_BITS if name in optimizer.unit_per_weight else _ROOM_BITS
            bits = np.where(sizes > 0, _needed(sizes, room), 0)
            bits = np.where(bits <= -_WORTH_CHANGING, bits, 0)  # of several runs each decides for itself
            if not bits.any():
                continue
            finest = _over_weights(np.min, _exponents(number_at(state, place)), runs)
            given = [
                _over_weights(np.any, change[place] > 0, runs) for change in rooms.values() if place in change
            ]
            steady = np.sum(given, axis=0) < _BURSTS
            bits = np.where(steady, np.clip(bits, np.minimum(EXPONENTS[0] - finest, 0), 0), 0)
            if bits.any():
                found[place] = bits.astype(np.int16)
    return found


def looks_at(optimizer: Optimizer) -> bool:
    """Whether an optimizer's memories are looked at, for units that have become too coarse: those of second moments, by
    whose roots steps are divided, and of what is divided.
    """
    return bool(optimizer.unit_per_weight)


def of_run(number: int, runs: int, change: UnitChange) -> UnitChange:
    """That of one of several runs, as part of all of theirs: the others keep their units."""
    mine = np.arange(runs) == number
    return {place: np.multiply.outer(mine, bits) for place, bits in change.items()}


def _sum(one: UnitChange, other: UnitChange) -> UnitChange:
    both = {**one, **other}
    for place in one.keys() & other.keys():
        dimensions = max(one[place].ndim, other[place].ndim)
        both[place] = along(one[place], dimensions) + along(other[place], dimensions)
    return both


def _over_weights(reduce: Callable[..., Any], values: np.ndarray, runs: int) -> Any:
    """Of each run."""
    return reduce(values, axis=tuple(range(runs, values.ndim)))


def _coarsest(field: str) -> int:
    return -FRACTION_BITS if field == "position" else EXPONENTS[1]  # weights may not pass ±LIMIT


def _exponents(number: Fixed) -> np.ndarray:
    return np.rint(np.log2(np.asarray(number.unit, np.float64))).astype(int)


def _sizes(number: Fixed) -> np.ndarray:
    """|integers|; of drifting numbers what they will be at the least scale."""
    growth = 1.0 if number.scale is None else float(number.scale) / LEAST_SCALE
    return np.abs(np.asarray(number.integers)) * growth


def _needed(sizes: np.ndarray, room: int) -> np.ndarray:
    """Bits by which units must grow to leave integers of these sizes that much room; negative where there is more."""
    return np.ceil(np.log2(np.maximum(sizes, 1))).astype(int) + room - 52
