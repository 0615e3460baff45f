"""Units of fixed-point numbers that training begins with, chosen from a short run in floats."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

from core.reversal.lifting import FRACTION_BITS, LEAST_SCALE
from core.reversal.optimizers import Optimizer
from core.reversal.stepping import Units, anatomy

Exponents: TypeAlias = dict[str, list[np.ndarray]]
"""{field: for each group log2 of the unit}: one a group, or one a weight; with a leading axis for several runs."""

SCALE_STEPS = 4  # of training in floats, from which units are chosen
HEADROOM_BITS = 6  # a number may grow 64-fold over what it was in those steps before its unit is too fine
_FLOAT32_HEADROOM_BITS = 12  # memories of float32 gradients 4096-fold: those have no use for so fine a unit
_TIGHT_BITS = 4  # or, where that spares a memory a unit coarser than weights have at most, 16-fold
OWN_HEADROOM_BITS = 20  # a single weight's memory, which may be small in those steps by chance, a million-fold
_DRIFT_BITS = -int(np.log2(LEAST_SCALE))  # that drifting numbers need beyond all of these
EXPONENTS = (-100, 50)  # that a memory's unit may have: powers of two that float32 holds, for values up to 2**102


def first_exponents(
    optimizer: Optimizer,
    largest: dict[str, list[Any]],
    dtypes: list[Any],
    leading: int,
    drifting: Collection[str] = (),
) -> Exponents:
    """Exponents with head room over a short run.

    Args:
        optimizer: whose fields these are.
        largest: {field: largest |value| of each group} in that run; of each weight, for fields with a unit for each.
        dtypes: of each group's gradient.
        leading: axes before those of weights: 1 for several runs, 0 for one.
        drifting: fields whose units drift.
    """
    # what is divided by a root must keep its digits however small it turns out to be: a memory that is silent in these
    # steps has the finest unit, leaves its range when it first speaks, and gets its unit then
    silent = EXPONENTS[0] if optimizer.unit_per_weight else -FRACTION_BITS
    exponents: Exponents = {}
    for name in anatomy(optimizer).fields:
        groups = zip(map(np.asarray, largest[name]), dtypes, strict=True)
        drift = _DRIFT_BITS if name in drifting else 0
        if name == "position":
            exponents[name] = [_position_exponent(values) for values, _ in groups]
        elif name in optimizer.unit_per_weight:
            exponents[name] = [
                _exponent_per_weight(values, dtype, leading, drift, silent) for values, dtype in groups
            ]
        else:
            exponents[name] = [_memory_exponent(values, dtype, drift, silent) for values, dtype in groups]
    return exponents


def units_of(exponents: Exponents, optimizer: Optimizer, treedef: Any) -> Units:
    """As arrays; a unit for each weight takes four bytes."""
    return {
        name: treedef.unflatten(
            [
                jnp.asarray(
                    np.ldexp(1.0, column), jnp.float32 if name in optimizer.unit_per_weight else jnp.float64
                )
                for column in columns
            ]
        )
        for name, columns in exponents.items()
    }


def _position_exponent(largest: np.ndarray) -> np.ndarray:
    """Of weights: 2**-40, which gives them a range of ±4096, or a finer unit if that leaves head room: much of it where
    they are small, as they may have started from nearly nothing.
    """
    known, fits = _fits(largest, 0)
    finest = np.minimum(fits + OWN_HEADROOM_BITS, HEADROOM_BITS - 52)
    exponent = np.minimum(np.maximum(fits + HEADROOM_BITS, finest), -FRACTION_BITS)
    return np.where(known, np.maximum(exponent, EXPONENTS[0]), -FRACTION_BITS).astype(int)


def _memory_exponent(largest: np.ndarray, dtype: Any, drift: int, silent: int) -> np.ndarray:
    """Of a memory: as fine as head room allows, of which there is less where the unit would be coarser than 2**-40."""
    headroom = _FLOAT32_HEADROOM_BITS if dtype == jnp.float32 else HEADROOM_BITS
    known, fits = _fits(largest, drift)
    exponent = np.minimum(fits + headroom, np.maximum(fits + _TIGHT_BITS, -FRACTION_BITS))
    unknown = np.where(largest == 0, silent, -FRACTION_BITS)
    return np.where(known, np.clip(exponent, *EXPONENTS), unknown).astype(int)


def _exponent_per_weight(largest: np.ndarray, dtype: Any, leading: int, drift: int, silent: int) -> np.ndarray:
    """Of a memory with a unit for each weight: its group's, or a finer one where the weight's own value is small."""
    axes = tuple(range(leading, largest.ndim))
    group = _memory_exponent(largest.max(axis=axes, keepdims=True, initial=0.0), dtype, drift, silent)
    known, fits = _fits(largest, drift)
    own = np.clip(fits + OWN_HEADROOM_BITS, *EXPONENTS)
    return np.where(known, np.minimum(own, group), group).astype(int)


def _fits(largest: np.ndarray, drift: int) -> tuple[np.ndarray, np.ndarray]:
    """Where a magnitude is known, and the exponent of the unit in which it has 52 bits, after drifting by some."""
    known = np.isfinite(largest) & (largest > 0)
    return known, np.ceil(np.log2(np.where(known, largest, 1.0))) - 52 + drift
