"""How units follow a training: coarser from the step on that numbers outgrow them, finer where numbers have shrunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from core.engines.units import EXPONENTS, HEADROOM_BITS, OWN_HEADROOM_BITS
from core.reversal.departure import Departure
from core.reversal.information_buffer import Place
from core.reversal.lifting import FRACTION_BITS, LEAST_SCALE, OVERFLOW
from core.reversal.moves import Fixed
from core.reversal.optimizers import Optimizer, State
from core.reversal.states import number_at
from core.reversal.stepping import anatomy
from core.reversal.unit_changes import UnitChange

LOOK_EVERY = (
    64  # steps after which second moments are looked at: what decays by 0.8 a step shrinks by 20 bits in them
)
_ROOM_BITS = 14  # that a memory is given which left its range, or has shrunk: what grew may well go on growing
_WORTH_CHANGING = 4  # bits that a unit must become finer by
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

    def alone(self, number: int) -> UnitChanges:
        """Those of one of several runs."""
        return UnitChanges(_of_one(self.rooms, number), _of_one(self.refinements, number), self.looked)

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


def room_for(
    departure: Departure, optimizer: Optimizer, rooms: Mapping[int, UnitChange], names: list[str]
) -> UnitChange:
    """Coarser units from the step on in which a run left its range.

    Whatever has little room left by then gets some, since what grows in one layer grows in the next.

    Args:
        departure: of one run.
        optimizer: whose fields these are.
        rooms: that the run was given before, by step.
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
                bits = _needed(sizes, OWN_HEADROOM_BITS if left else HEADROOM_BITS)
                if left and sum(place in one for one in rooms.values()) >= _OWN_UNITS_TRIES:
                    bits = (exponents + bits).max() - exponents
            else:
                sizes = np.asarray(largest)
                bits = _needed(sizes, _ROOM_BITS if left and name != "position" else HEADROOM_BITS)
            bits = np.clip(bits, 0, np.maximum(_coarsest(name) - exponents, 0))
            if (np.ldexp(sizes, -bits) >= OVERFLOW).any():
                raise departure.overflow(names, place, _coarsest(name))
            if bits.any():
                found[place] = bits
    return found


def refinement_for(state: State, optimizer: Optimizer, largest: np.ndarray) -> UnitChange:
    """Finer units for memories that have shrunk in every weight of their group. Weights keep theirs.

    Args:
        state: that was looked at.
        optimizer: whose fields these are.
        largest: largest |integer| of each field and group, [fields, groups] or [S, fields, groups].
    """
    found: UnitChange = {}
    for index, name in enumerate(anatomy(optimizer).fields):
        for group in range(largest.shape[-1] if name != "position" else 0):
            sizes = largest[..., index, group]
            room = OWN_HEADROOM_BITS if name in optimizer.unit_per_weight else _ROOM_BITS
            bits = np.where(sizes > 0, _needed(sizes, room), 0)
            bits = np.where(bits <= -_WORTH_CHANGING, bits, 0)  # of several runs each decides for itself
            if not bits.any():
                continue
            number = number_at(state, Place(name, group))
            unit = np.asarray(number.unit)
            bits = np.broadcast_to(bits.reshape(bits.shape + (1,) * (unit.ndim - bits.ndim)), unit.shape)
            found[Place(name, group)] = np.clip(bits, np.minimum(EXPONENTS[0] - _exponents(number), 0), 0)
    return found


def follows(optimizer: Optimizer) -> bool:
    """Whether units of an optimizer's memories need to become finer: those of second moments, by whose roots steps are
    divided, and of what is divided.
    """
    return bool(optimizer.unit_per_weight)


def of_run(number: int, runs: int, change: UnitChange) -> UnitChange:
    """That of one of several runs, as part of all of theirs: the others keep their units."""
    mine = np.arange(runs) == number
    return {place: np.multiply.outer(mine, bits) for place, bits in change.items()}


def _of_one(changes: Mapping[int, UnitChange], number: int) -> dict[int, UnitChange]:
    mine = {
        step: {place: bits[number] for place, bits in change.items() if bits[number].any()}
        for step, change in changes.items()
    }
    return {step: change for step, change in mine.items() if change}


def _sum(one: UnitChange, other: UnitChange) -> UnitChange:
    none = np.zeros((), int)
    return {place: one.get(place, none) + other.get(place, none) for place in {**one, **other}}


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
