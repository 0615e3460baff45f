"""Units that change in the middle of training, so that numbers can grow, or shrink, by more than a float64 has bits.

Before a step, a number n takes a unit 2**k times as large, and becomes round(n / 2**k). Where k > 0 that takes k bits
off it, which are stored: running backward has n again, bit for bit. Where k < 0 nothing is lost.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from core.reversal.information_buffer import Place, narrowed, widened
from core.reversal.moves import Fixed
from core.reversal.optimizers import State
from core.reversal.states import number_at, with_number
from core.reversal.stores import Store

UnitChange: TypeAlias = dict[Place, np.ndarray]
"""Bits k by which units grow before a step: one number for a group, in each of several runs, or one for each weight."""


def change_units(state: State, change: UnitChange, store: Store) -> State:
    """The state in other units; the bits that it loses go to the store."""
    for place, bits in change.items():
        number, low = _changed(number_at(state, place), _power(bits))
        state = with_number(state, place, number)
        store.push(narrowed(low))
    return state


def restore_units(state: State, change: UnitChange, store: Store) -> State:
    """Exact inverse of `change_units`."""
    for place, bits in reversed(change.items()):
        number = number_at(state, place)
        low = widened(store.pop(), number.integers.shape)
        state = with_number(state, place, _restored(number, low, _power(bits)))
    return state


def with_units_after(state: State, change: UnitChange) -> State:
    """With the units that a state has after they changed, and the same integers."""
    for place, bits in change.items():
        number = number_at(state, place)
        state = with_number(state, place, number._replace(unit=_times(number.unit, _power(bits))))
    return state


def with_units_before(state: State, change: UnitChange) -> State:
    """With the units that a state had before they changed, and the same integers."""
    for place, bits in change.items():
        number = number_at(state, place)
        state = with_number(state, place, number._replace(unit=_times(number.unit, 1 / _power(bits))))
    return state


def along(bits: Any, dimensions: int) -> Any:
    """With so many axes, the first of them kept: what stands for a group stands for each of its weights."""
    return bits.reshape(bits.shape + (1,) * (dimensions - bits.ndim))


def _power(bits: np.ndarray) -> np.ndarray:
    return np.ldexp(1.0, bits)


@jax.jit
def _changed(number: Fixed, power: jax.Array) -> tuple[Fixed, jax.Array]:
    per_number = along(power, number.integers.ndim)
    high = jnp.round(number.integers / per_number)
    return number._replace(integers=high, unit=_times(number.unit, power)), number.integers - high * per_number


@jax.jit
def _restored(number: Fixed, low: jax.Array, power: jax.Array) -> Fixed:
    integers = number.integers * along(power, number.integers.ndim) + low
    return number._replace(integers=integers, unit=_times(number.unit, 1 / power))


def _times(unit: jax.Array, power: jax.Array | np.ndarray) -> jax.Array:
    return (unit * along(power, unit.ndim)).astype(unit.dtype)  # exact: powers of two
