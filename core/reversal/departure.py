"""Where training leaves the fixed-point range: found by training once more with a look at every step."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import FixedPointOverflow
from core.reversal.information_buffer import Place, Plan
from core.reversal.lifting import LEAST_SCALE, OVERFLOW
from core.reversal.optimizers import State
from core.reversal.segments import Gradient, advance_checked
from core.reversal.states import Static, number_at, without_buffers
from core.reversal.stores import NoStore
from core.reversal.trajectory import Conduct, Course, spilled
from core.reversal.unit_changes import change_units


class Departure(NamedTuple):
    """The first step of a run in which a number left the range.

    Attributes:
        step: its number.
        state: after it, with whole numbers that are no longer exact.
        largest: largest |integer| of each field and group, [fields, groups]; of drifting ones at the least scale.
    """

    step: int
    state: State
    largest: np.ndarray

    @property
    def where(self) -> Place:
        """What left the range by most."""
        field, group = divmod(int(np.argmax(self.largest)), self.largest.shape[1])
        return Place(self.state._fields[field], group)

    def overflow(self, names: list[str], place: Place, coarsest: int) -> FixedPointOverflow:
        """As an error.

        Args:
            names: of the groups.
            place: what is to blame.
            coarsest: exponent of the largest unit that it may have.
        """
        number = number_at(self.state, place)
        least, scale = (1.0, 1.0) if number.scale is None else (LEAST_SCALE, float(number.scale))
        return FixedPointOverflow(
            step=self.step,
            group=names[place.group],
            field=place.field,
            largest=float(jnp.max(jnp.abs(number.integers) * number.unit, initial=0.0)) * scale,
            limit=OVERFLOW * 2.0**coarsest * least,
        )


def first_departures(
    course: Course, gradient: Gradient, initial: State, plans: list[Plan], conduct: Conduct | None = None
) -> dict[int, Departure]:
    """Train again from `initial` (consumed), with the same bits, checking every step, until a run leaves the range.

    Args:
        course: what is followed.
        gradient: of the inner loss.
        initial: fixed-point state to start from.
        plans: followed one after another; buffers are empty where each begins.
        conduct: how.

    Returns:
        {number of the run: its departure} of those that leave the range first, or nearly so; none if all stay.
    """
    state, conduct = initial, conduct or Conduct()
    for plan in plans:
        state = without_buffers(state)
        for segment in plan.segments:
            state = spilled(state, segment, NoStore())
            state = change_units(state, course.unit_changes.get(segment.start, {}), NoStore())
            for start, stop in conduct.pace.timed(segment.start, segment.stop):
                conduct.interrupt()
                state, *found = advance_checked(
                    course.optimizer,
                    Static(course.dtypes),
                    gradient,
                    course.schedule,
                    course.drift,
                    course.key,
                    state,
                    start,
                    stop,
                    segment.forgets,
                    course.seeds,
                )
                if (np.asarray(found[0]) < stop).any():
                    return _departures(course, (state, *found), stop)
    return {}


def _departures(course: Course, found: tuple[State, jax.Array, jax.Array], stop: int) -> dict[int, Departure]:
    return {
        number: Departure(int(reached), state, np.asarray(largest))
        for number, (state, reached, largest) in enumerate(course.seeds.each(found))
        if reached < stop
    }
