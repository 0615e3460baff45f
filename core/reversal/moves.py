"""The moves that a reversible optimizer is written in: `add` and `decay`, and what undoes them.

The same program is read in three ways. On `Fixed` numbers it is what training runs, and every move is undone bit for
bit. On plain arrays it is the mathematics, differentiable. On `Noted` ones it only tells by how much each field decays.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float64

from core.errors import InvalidOptimizer
from core.reversal import lifting


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Fixed:
    """Fixed-point numbers: one group of one field of an optimizer's state.

    Attributes:
        integers: whole numbers, |integers| < 2**52.
        unit: a power of two, scalar or of the numbers' shape; the value is integers × unit × scale.
        buffer: information buffer, of a field that decays.
        scale: scalar in (0, 1], of a field whose unit drifts (see `core.reversal.drift`); others have none, which is 1.
        turned: while a step is taken or undone, of a field whose unit drifts: the scale on the other side of its decay.
        taped: while a step is taken or undone that forgets the number, or might: what it was before.
        missed: after `undecay` of such a number: bits by which it missed what was left of `taped`.
        compute: dtype of the group's gradient.
    """

    integers: Float64[Array, ...]
    unit: Array
    buffer: Float64[Array, ...] | None
    scale: Array | None = None
    turned: Array | None = None
    taped: Float64[Array, ...] | None = None
    missed: Array | None = None
    compute: Any = field(default=jnp.dtype("float64"), metadata={"static": True})

    def _replace(self, **changes: Any) -> Fixed:
        """A copy with some attributes changed."""
        return replace(self, **changes)


class Noted(NamedTuple):
    """A field that stands for itself while the decay factors of a step are being noted."""

    value: Array
    field: str
    factors: dict[str, Array]


Number: TypeAlias = Any  # Fixed, Noted, or an array


def real(number: Number) -> Float[Array, ...]:
    """Value of a number, in float64 if it is fixed-point."""
    if isinstance(number, Fixed):
        if number.scale is None:
            return number.integers * number.unit  # exact: the unit is a power of two
        return product(number.integers, number.unit * number.scale)
    return number.value if isinstance(number, Noted) else number


def computed(number: Number) -> Float[Array, ...]:
    """Value of a number in the precision that gradients are computed in: for roots and quotients, which float64 makes
    slow and no more accurate than the gradients in them.
    """
    return real(number).astype(number.compute) if isinstance(number, Fixed) else real(number)


def add(number: Number, increment: Float[Array, ...]) -> Number:
    """Move a number by an increment that must not depend on the number itself.

    In fixed point the increment is rounded, so that `subtract` of the same increment undoes the move. It is computed
    twice, in two programs, and must have the same bits in both: let no product feed a sum inside it (compilers fuse the
    two into one rounding or not, as they like); write two moves, or use `product`.
    """
    if isinstance(number, Fixed):
        return number._replace(integers=number.integers + _rounded(increment, number))
    return number if isinstance(number, Noted) else number + increment


def subtract(number: Number, increment: Float[Array, ...]) -> Number:
    """Undo `add` of the same increment."""
    if isinstance(number, Fixed):
        return number._replace(integers=number.integers - _rounded(increment, number))
    return number if isinstance(number, Noted) else number - increment


def decay(number: Number, factor: Float[Array, ...]) -> Number:
    """Scale a number by a factor in [0, 1], at most once a step. In fixed point its unit shrinks, or the bits that
    its integers lose go to its buffer.

    Args:
        number: a field of the state.
        factor: scalar or of the number's shape; a function of hyperparameters alone.
    """
    if isinstance(number, Noted):
        if number.field in number.factors:
            raise InvalidOptimizer(f"step decays {number.field} twice; multiply the factors and decay once")
        number.factors[number.field] = factor
        return number
    if not isinstance(number, Fixed):
        return factor * number
    integers, buffer = number.integers, buffer_of(number)
    if number.turned is None:
        integers, buffer = lifting.decay(integers, buffer, factor)
    elif number.taped is not None:
        integers = lifting.left_of(integers, factor)
    return _turned(number)._replace(integers=integers, buffer=buffer, taped=None)


def undecay(number: Number, factor: Float[Array, ...]) -> Number:
    """Undo `decay` by the same factor; of plain arrays but for rounding, which that makes 1/factor times as large."""
    if not isinstance(number, Fixed):
        return number / factor
    integers, buffer = number.integers, buffer_of(number)
    if number.turned is None:
        integers, buffer = lifting.undecay(integers, buffer, factor)
    number = _turned(number)
    if number.taped is None:
        return number._replace(integers=integers, buffer=buffer)
    missed = differing_bits(integers, lifting.left_of(number.taped, factor))
    return number._replace(integers=number.taped, buffer=buffer, taped=None, missed=missed)


def root(value: Float[Array, ...]) -> Float[Array, ...]:
    """Square root of a second moment. Zero, with derivative zero, where the value is not positive: a dead unit's moment
    is zero, and rounding may leave it a unit below.
    """
    positive = value > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, value, 1)), 0)


def product(left: Float[Array, ...], right: Float[Array, ...]) -> Float[Array, ...]:
    """Left × right for use in a sum: rounded (in float64 to 51 bits) before the sum, whatever the compiler fuses."""
    result = jnp.asarray(left * right)
    return jax.lax.reduce_precision(result, 11, 51) if result.dtype == jnp.float64 else result


def differing_bits(one: Float64[Array, ...], other: Float64[Array, ...]) -> Array:
    """Number of bits in which whole numbers differ."""
    return jnp.sum(jax.lax.population_count(one.astype(jnp.int64) ^ other.astype(jnp.int64)))


def buffer_of(number: Fixed) -> Float64[Array, ...]:
    """The information buffer of a number that decays."""
    if number.buffer is None:
        raise InvalidOptimizer("unstep undoes a decay that step never made; mirror the moves of step")
    return number.buffer


def _turned(number: Fixed) -> Fixed:
    return number if number.turned is None else number._replace(scale=number.turned, turned=None)


def _rounded(increment: Float[Array, ...], number: Fixed) -> Float64[Array, ...]:
    per_unit = 1 / number.unit if number.scale is None else (1 / number.unit) * (1 / number.scale)
    return jnp.round(jnp.asarray(increment, jnp.float64) * per_unit)


def is_number(node: Any) -> bool:
    """For `jax.tree.map(..., is_leaf=is_number)` over fixed-point states."""
    return isinstance(node, Fixed)


def to_float(number: Fixed, dtype: jax.typing.DTypeLike) -> Float[Array, ...]:
    """Value of a fixed-point number, rounded once to `dtype`."""
    return real(number).astype(dtype)
