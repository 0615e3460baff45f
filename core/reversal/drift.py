"""Decay without arithmetic: a number's unit shrinks in its stead, until that is settled with the integers.

Where a group of a memory decays by one factor K, its value is integers × unit × scale, and a step's decay turns the
scale into K × scale: no bit is lost and nothing is rounded. The numbers lose head room instead, so before a step at
which a scale would fall below LEAST_SCALE they are *settled*: `lifting.decay` by the scale brings them back to scale 1.
Steps between two settlings are a leg. When a trajectory settles follows from its schedule alone.

Weights do not drift: they decay slowly if at all, their range is promised to users, and losses take them in.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.reversal.information_buffer import Factors
from core.reversal.lifting import LEAST_SCALE

_TOLERANCE = 1e-9  # in shares of a leg's budget: for a running sum over all steps


class Drift(NamedTuple):
    """Scales at every step, and the legs.

    Attributes:
        after: {field: [T, groups]}, the scale once a step has decayed the field; [T, 1] where all groups have the same.
        first: [T], the first step of the leg that a step is in.
        stop: [T], the step after its last.
    """

    after: dict[str, jax.Array]
    first: jax.Array
    stop: jax.Array

    def begins(self, step: int | jax.Array) -> jax.Array:
        """Whether a leg begins with this step."""
        return self.first[step] == step

    def arriving(self, step: int | jax.Array) -> dict[str, jax.Array]:
        """Scales when a step is reached, before anything is settled: {field: [groups]}."""
        last = jnp.maximum(jnp.asarray(step) - 1, 0)
        return {field: jnp.where(jnp.asarray(step) > 0, scales[last], 1.0) for field, scales in self.after.items()}

    def before(self, step: int | jax.Array) -> dict[str, jax.Array]:
        """Scales when a step is taken, with everything settled that was to be."""
        return {field: jnp.where(self.begins(step), 1.0, scales) for field, scales in self.arriving(step).items()}


def drift_of(factors: Factors) -> Drift:
    """Scales and legs of a trajectory, greedily: every leg is as long as LEAST_SCALE allows."""
    kept = {field: _narrow(factors.smallest[field]) for field in factors.uniform if field != "position"}
    kept = {field: rows for field, rows in kept.items() if rows.min(initial=1.0) >= LEAST_SCALE}
    starts = _starts_of_legs(factors.num_steps, [np.log(rows) / np.log(LEAST_SCALE) for rows in kept.values()])
    stops = np.append(starts[1:], factors.num_steps)
    after = {}
    for field, rows in kept.items():
        scales = np.empty_like(rows)
        for start, stop in zip(starts, stops, strict=True):
            np.cumprod(rows[start:stop], axis=0, out=scales[start:stop])
        after[field] = jnp.asarray(scales)
    lengths = stops - starts
    return Drift(after, jnp.asarray(np.repeat(starts, lengths)), jnp.asarray(np.repeat(stops, lengths)))


def _narrow(rows: np.ndarray) -> np.ndarray:
    """One column where all are the same."""
    return rows[:, :1] if (rows == rows[:, :1]).all() else rows


def _starts_of_legs(num_steps: int, shares: list[np.ndarray]) -> np.ndarray:
    """From the shares [T, places] of a leg's budget that each step takes."""
    next_start = np.full(num_steps, num_steps)
    for column in np.concatenate([np.empty((num_steps, 0)), *shares], axis=1).T:
        spent = column.cumsum()
        at_start = np.append(0.0, spent[:-1])
        next_start = np.minimum(next_start, np.searchsorted(spent, at_start + 1 + _TOLERANCE, side="right"))
    starts, at = [], 0
    while at < num_steps:
        starts.append(at)
        at = max(int(next_start[at]), at + 1)
    return np.asarray(starts, int)
