"""What an optimizer's author must give: parts of the right kind, and functions that return what they should."""

from __future__ import annotations

from numbers import Real
from reprlib import repr as short
from typing import Any

import jax
import numpy as np

from core.callables import check_callable
from core.errors import InvalidOptimizer
from core.reversal.moves import Fixed, Noted, Number
from core.reversal.optimizers import Optimizer, Range, State

_CALLED_WITH = {
    "init": ("weights",),
    "step": ("state", "gradient", "hypers"),
    "unstep": ("state", "hypers"),
    "prepare": ("rows",),
}


def check_optimizer(optimizer: Optimizer) -> None:
    """Raise InvalidOptimizer unless its parts are of the right kind; nothing is called."""
    for part, wanted in _CALLED_WITH.items():
        check_callable(f"{part} of {optimizer.name}", getattr(optimizer, part), wanted, InvalidOptimizer)
    ranges = optimizer.hyperparameters
    if not isinstance(ranges, dict) or not all(isinstance(name, str) for name in ranges):
        raise InvalidOptimizer(
            f"hyperparameters of {optimizer.name} is {short(ranges)}; give a dict {{name: Range}}"
        )
    for name, values in ranges.items():
        if not isinstance(values, Range) or not _is_range(values):
            raise InvalidOptimizer(
                f"hyperparameter {name!r} of {optimizer.name} has the range {values!r}; give a Range(low, high, "
                "default) of numbers, low ≤ default < high, or no default"
            )
    names = optimizer.unit_per_weight
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise InvalidOptimizer(
            f"unit_per_weight of {optimizer.name} is {names!r}; give a tuple of names of fields"
        )


def _is_range(values: Range) -> bool:
    low, high, default = values
    if not all(isinstance(value, Real) for value in (low, high, *([] if default is None else [default]))):
        return False
    return low < high and (default is None or low <= default < high)


def init(optimizer: Optimizer, weights: jax.Array) -> State:
    """The state that training starts from, of one group.

    Raises:
        InvalidOptimizer: it is no NamedTuple of arrays like the weights that begins with them.
    """
    state = optimizer.init(weights)
    if not isinstance(state, tuple) or not hasattr(state, "_fields"):
        raise InvalidOptimizer(
            f"init of {optimizer.name} returned {_kind(state)}; it must return a NamedTuple whose first field is "
            "'position', the weights"
        )
    if state._fields[:1] != ("position",):
        raise InvalidOptimizer(
            f"the first field of {optimizer.name}'s state is {next(iter(state._fields), None)!r}; it must be 'position'"
        )
    for field, value in zip(state._fields, state, strict=True):
        if getattr(value, "shape", None) != weights.shape or value.dtype != weights.dtype:
            raise InvalidOptimizer(
                f"init of {optimizer.name} returned {_kind(value)} for {field}, but {_kind(weights)} for the weights "
                "that it was given; make it with jnp.zeros_like(weights)"
            )
    return state


def returned(optimizer: Optimizer, method: str, given: State, state: Any) -> State:
    """`state`, which step or unstep made of a group's state.

    Raises:
        InvalidOptimizer: it is not of the kind that was given.
    """
    wanted = type(given)
    if type(state) is not wanted:
        raise InvalidOptimizer(
            f"{method} of {optimizer.name} returned {_kind(state)}; it must return "
            f"{wanted.__name__}({', '.join(wanted._fields)}), the state that init makes"
        )
    for field, before, after in zip(wanted._fields, given, state, strict=True):
        like(optimizer, f"{method} of {optimizer.name} returned", field, before, after)
    return state


def like(optimizer: Optimizer, did: str, field: str, given: Number, number: Any) -> Number:
    """`number`, which was made of a field.

    Raises:
        InvalidOptimizer: it is no longer what moves change, or has another shape.
    """
    moved = isinstance(given, Fixed | Noted)
    if (moved and type(number) is not type(given)) or _shape(number) != _shape(given):
        raise InvalidOptimizer(
            f"{did} {_kind(number)} for {field}; it must be what add, subtract, decay or undecay make of "
            f"state.{field}, of shape {_shape(given)}"
        )
    return number


def _shape(number: Any) -> Any:
    if isinstance(number, Fixed):
        return number.integers.shape
    return getattr(number.value if isinstance(number, Noted) else number, "shape", None)


def _kind(value: Any) -> str:
    """In a few words."""
    if isinstance(value, Fixed | Noted):
        return f"a number of shape {_shape(value)}"
    if isinstance(value, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
        return f"an array of {value.dtype} and shape {value.shape}"
    return "None" if value is None else f"something of type {type(value).__name__}"
