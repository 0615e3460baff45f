"""Decay without arithmetic: a number's unit shrinks in its stead, until that is settled with the integers.

Where a group decays by one factor K, its value is integers × unit × scale, and a step's decay turns the scale into
K × scale: no bit is lost and nothing is rounded. The numbers lose head room instead, so before a step at which a scale
would fall below its floor they are *settled*: `lifting.decay` by the scale brings them back to scale 1. Steps between
two settlings are a leg. When a trajectory settles follows from its schedule alone.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.reversal.information_buffer import Factors
from core.reversal.lifting import LEAST_SCALE

_LEAST_SCALE_OF_WEIGHTS = 0.9  # whose range is promised to users, and whose decay is slow


class Drift(NamedTuple):
    """Scales at every step, and the legs.

    Attributes:
        before: {field: [T, groups]}, the scale when a step begins.
        after: the same, once the step has decayed the field.
        first: [T], the first step of the leg that a step is in.
        stop: [T], the step after its last.
    """

    before: dict[str, jax.Array]
    after: dict[str, jax.Array]
    first: jax.Array
    stop: jax.Array

    def arriving(self, step: int | jax.Array) -> dict[str, jax.Array]:
        """Scales when a step is reached, before anything is settled: {field: [groups]}."""
        last = jnp.maximum(jnp.asarray(step) - 1, 0)
        return {field: jnp.where(step > 0, scales[last], 1.0) for field, scales in self.after.items()}


def drift_of(factors: Factors) -> Drift:
    """Scales and legs of a trajectory, greedily: every leg is as long as its floors allow."""
    fields = [field for field in factors.uniform if factors.smallest[field].min(initial=1.0) >= _floor(field)]
    steps = factors.num_steps
    bits = {field: -np.log2(factors.smallest[field]) for field in fields}
    # over their budgets all places are alike
    spent = [bits[field] / -np.log2(_floor(field)) for field in fields]
    grown = np.concatenate([np.zeros((steps, 0)), *spent], axis=1).cumsum(axis=0)
    starts, stops = _legs(grown)
    first = np.repeat(starts, stops - starts)
    after, before = {}, {}
    for field in fields:
        through = bits[field].cumsum(axis=0)
        until = np.concatenate([np.zeros_like(through[:1]), through])[first]  # what was settled as the leg began
        after[field] = np.exp2(until - through)
        begins = (first == np.arange(steps))[:, None]
        before[field] = np.where(begins, 1.0, np.roll(after[field], 1, axis=0))
    as_arrays = jax.tree.map(jnp.asarray, (before, after, first, np.repeat(stops, stops - starts)))
    return Drift(*as_arrays)


def _floor(field: str) -> float:
    return _LEAST_SCALE_OF_WEIGHTS if field == "position" else LEAST_SCALE


def _legs(grown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and stops, from the running sums [T, places] of shares of the budget that steps take."""
    steps, starts = len(grown), []
    at, settled = 0, np.zeros(grown.shape[1])
    while at < steps:
        starts.append(at)
        stop = steps
        for place, column in enumerate(grown.T):
            stop = min(stop, at + int(np.searchsorted(column[at:], settled[place] + 1 + 1e-9, side="right")))
        at = max(stop, at + 1)
        settled = grown[at - 1]
    return np.asarray(starts, int), np.asarray([*starts[1:], steps] if starts else [], int)
