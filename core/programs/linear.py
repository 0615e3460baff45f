"""A linear map of which both directions are known as functions: differentiable where StableHLO is not.

    forward:  (residuals, operands) → results        linear in the operands
    backward: (residuals, cotangents of results) → cotangents of operands

As `jax.custom_derivatives.linear_call`, but for several runs at once too: these go one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from core.errors import InvalidProblem

Arrays = list[jax.Array]


class Linear(NamedTuple):
    """The map. Compared by its functions: keep the object, or what they are methods of."""

    forward: Callable[[Arrays, Arrays], Arrays]
    backward: Callable[[Arrays, Arrays], Arrays]
    operands: tuple[jax.ShapeDtypeStruct, ...]
    results: tuple[jax.ShapeDtypeStruct, ...]

    def __call__(self, residuals: Sequence[jax.Array], operands: Sequence[jax.Array]) -> Arrays:
        """The results."""
        found: Arrays = _linear_p.bind(*residuals, *operands, linear=self, count=len(residuals))
        return found

    @property
    def transposed(self) -> Linear:
        """The map of cotangents."""
        return Linear(self.backward, self.forward, self.results, self.operands)


def unavailable(what: str) -> Callable[[Arrays, Arrays], Arrays]:
    """A direction that nobody has exported."""
    return partial(_missing, what)


def _missing(what: str, residuals: Arrays, operands: Arrays) -> Arrays:
    raise InvalidProblem(
        f"an exported program has no {what}; choose an engine that goes backward, such as reversible()"
    )


_linear_p = Primitive("program_linear")
_linear_p.multiple_results = True


@_linear_p.def_impl
def _implemented(*arguments: jax.Array, linear: Linear, count: int) -> Arrays:
    return linear.forward(list(arguments[:count]), list(arguments[count:]))


@_linear_p.def_abstract_eval
def _abstract(*_: Any, linear: Linear, count: int) -> list[Any]:
    return [jax.core.ShapedArray(result.shape, result.dtype) for result in linear.results]


def _jvp(primals: Any, tangents: Any, *, linear: Linear, count: int) -> Any:
    if any(not isinstance(tangent, ad.Zero) for tangent in tangents[:count]):
        raise InvalidProblem("an exported program has no third derivatives; differentiate it no further")
    along = [ad.instantiate_zeros(tangent) for tangent in tangents[count:]]
    return linear(primals[:count], primals[count:]), linear(primals[:count], along)


def _transpose(cotangents: Any, *arguments: Any, linear: Linear, count: int) -> Any:
    back = linear.transposed(arguments[:count], [ad.instantiate_zeros(one) for one in cotangents])
    return [*[None] * count, *back]


def _batched(arguments: Any, axes: Any, *, linear: Linear, count: int) -> Any:
    """One run after another: exported functions are for one."""
    mapped = [jnp.moveaxis(one, axis, 0) for one, axis in zip(arguments, axes, strict=True) if axis is not None]

    def one_run(rows: Arrays) -> Arrays:
        left = iter(rows)
        each = [one if axis is None else next(left) for one, axis in zip(arguments, axes, strict=True)]
        return linear(each[:count], each[count:])

    results = jax.lax.map(one_run, mapped)
    return results, [0] * len(results)


ad.primitive_jvps[_linear_p] = _jvp
ad.primitive_transposes[_linear_p] = _transpose
batching.primitive_batchers[_linear_p] = _batched
mlir.register_lowering(_linear_p, mlir.lower_fun(_implemented, multiple_results=True))
