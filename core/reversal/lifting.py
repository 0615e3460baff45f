"""Fixed-point numbers held in float64, and the one lossy operation of training made exactly invertible.

A state is an integer-valued float64 array in units of 2**-FRACTION_BITS. Below 2**53 every sum and difference of
such integers is exact, so `x + y` is undone by `x - y`, bit for bit, whatever program computes it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float64

FRACTION_BITS = 40
UNIT = 2.0**-FRACTION_BITS
OVERFLOW = 2.0**52  # |state| from here on would leave too little room for exact sums; reported as divergence
LIMIT = OVERFLOW * UNIT  # the same in real units: ±4096

LEAST_SCALE = 0.25
"""What a drifting unit may shrink to (see `core.reversal.drift`): two bits of head room."""

FORGETTING = 2.0**-24
"""Factors below this one forget: the buffer would have to grow by more than 24 bits in one step, so the value is
stored whole before the step instead (see `core.reversal.trajectory`)."""


def to_fixed(real: Float[Array, ...]) -> Float64[Array, ...]:
    """Nearest fixed-point number, as an integer-valued float64."""
    return jnp.round(real.astype(jnp.float64) * 2.0**FRACTION_BITS)


def to_real(fixed: Float64[Array, ...], dtype: jax.typing.DTypeLike = jnp.float64) -> Float[Array, ...]:
    """Value of a fixed-point number, rounded once to `dtype`."""
    return (fixed * UNIT).astype(dtype)


def decay(
    value: Float64[Array, ...], buffer: Float64[Array, ...], factor: Float64[Array, ...]
) -> tuple[Float64[Array, ...], Float64[Array, ...]]:
    """Scale `value` by `factor`, keeping in `buffer` what the rounding would lose.

        diag(K, 1/K) = [1 K−K²; 0 1] [1 0; −1/K 1] [1 K−1; 0 1] [1 0; 1 1]

    Each shear adds a rounded multiple of the other operand, so `undecay` inverts it bit for bit.
    No line contains a product that feeds a sum unrounded: a fused multiply-add cannot change a bit.

    Args:
        value: integers held as float64, |value| < 2**52, in units of 2**-FRACTION_BITS.
        buffer: information buffer, same shape; grows by log2(1/factor) bits per call.
        factor: K in [0, 1], a scalar or of the same shape. Where K < FORGETTING the value is scaled with an
            ordinary rounding and the buffer left alone: the caller has stored the value.

    Returns:
        (value, buffer) after the decay; value is within 2 units of K times what it was.

    References:
        Daubechies & Sweldens 1998 (lifting); Maclaurin et al. 2015, section 2.4 (the problem).
    """
    forgets = factor < FORGETTING
    kept = jnp.where(forgets, 1.0, factor)  # with K = 1 every line below is the identity

    buffer = buffer + value
    value = value + jnp.round((kept - 1) * buffer)
    buffer = buffer + jnp.round(value * (-1 / kept))
    value = value + jnp.round((kept * (1 - kept)) * buffer)
    return jnp.where(forgets, jnp.round(factor * value), value), buffer


def undecay(
    value: Float64[Array, ...], buffer: Float64[Array, ...], factor: Float64[Array, ...]
) -> tuple[Float64[Array, ...], Float64[Array, ...]]:
    """Exact inverse of `decay`: its lines, negated, from last to first. Forgotten values stay scaled: see `left_of`."""
    kept = jnp.where(factor < FORGETTING, 1.0, factor)

    value = value - jnp.round((kept * (1 - kept)) * buffer)
    buffer = buffer - jnp.round(value * (-1 / kept))
    value = value - jnp.round((kept - 1) * buffer)
    buffer = buffer - value
    return value, buffer


def left_of(value: Float64[Array, ...], factor: Float64[Array, ...]) -> Float64[Array, ...]:
    """What `undecay` gives back where `decay` was given `value`: the value itself, or scaled where it was forgotten."""
    return jnp.where(factor < FORGETTING, jnp.round(factor * value), value)
