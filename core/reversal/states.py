"""Whole fixed-point states: their groups, their values, what drifts in them, and their comparison bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from core.reversal import lifting
from core.reversal.drift import Drift
from core.reversal.information_buffer import Place
from core.reversal.moves import Fixed, buffer_of, differing_bits, is_number, to_float
from core.reversal.optimizers import Params, State
from core.reversal.seeds import ONE, Seeds


class Static:
    """A pytree of hashable leaves as one static argument."""

    def __init__(self, tree: Any) -> None:
        leaves, self._treedef = jax.tree.flatten(tree)
        self._leaves = tuple(leaves)

    @property
    def tree(self) -> Any:
        return self._treedef.unflatten(self._leaves)

    def __hash__(self) -> int:
        return hash((self._leaves, self._treedef))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and (self._leaves, self._treedef) == (other._leaves, other._treedef)


def numbers_of(field: Params) -> list[Fixed]:
    """A field's groups."""
    return jax.tree.leaves(field, is_leaf=is_number)


def number_at(state: State, place: Place) -> Fixed:
    """One group of one field."""
    return jax.tree.leaves(getattr(state, place.field), is_leaf=is_number)[place.group]


def with_number(state: State, place: Place, number: Fixed) -> State:
    """With one group of one field replaced."""
    leaves, treedef = jax.tree.flatten(getattr(state, place.field), is_leaf=is_number)
    leaves[place.group] = number
    return state._replace(**{place.field: treedef.unflatten(leaves)})


def as_real(numbers: Params, dtypes: Params) -> Params:
    """Fixed-point numbers in compute precision."""
    return jax.tree.map(to_float, numbers, dtypes, is_leaf=is_number)


@partial(jax.jit, static_argnames=("dtypes", "seeds"))
def real_parameters(state: State, dtypes: Static, seeds: Seeds = ONE) -> Params:
    """Elementary parameters of a fixed-point state, in compute precision."""
    return seeds.map(lambda position: as_real(position, dtypes.tree), (0,))(state.position)


@jax.jit
def copied(state: State) -> State:
    """A state of its own, for loops that consume theirs."""
    return jax.tree.map(jnp.copy, state)


@partial(jax.jit, donate_argnames="state")
def without_buffers(state: State) -> State:
    """The state (consumed) with its information buffers emptied."""
    return emptied(state)


def emptied(state: State) -> State:
    """`without_buffers`, within a traced program."""
    return jax.tree.map(
        lambda number: number if number.buffer is None else number._replace(buffer=jnp.zeros_like(number.buffer)),
        state,
        is_leaf=is_number,
    )


def taped(state: State, before: dict[Place, jax.Array]) -> State:
    """Ready for a step, or its undoing, that forgets what these places held."""
    for place, integers in before.items():
        state = with_number(state, place, number_at(state, place)._replace(taped=integers))
    return state


def turning(state: State, scales: dict[str, jax.Array]) -> State:
    """Ready for a decay, or its undoing, that turns scales into these: {field: [groups]}."""
    return of_drifting(lambda one, scale: one._replace(turned=scale), state, scales)


def settle(drift: Drift, state: State, number: jax.Array) -> State:
    """The same values with scales of 1, if a leg begins with this step."""
    begins = drift.begins(number)

    def settled(one: Fixed, scale: jax.Array) -> Fixed:
        integers, buffer = lifting.decay(one.integers, buffer_of(one), jnp.where(begins, scale, 1.0))
        return one._replace(integers=integers, buffer=buffer, scale=jnp.where(begins, 1.0, scale))

    return of_drifting(settled, state, drift.arriving(number))


def unsettle(drift: Drift, state: State, number: jax.Array) -> State:
    """Undo `settle`."""
    begins = drift.begins(number)

    def unsettled(one: Fixed, scale: jax.Array) -> Fixed:
        integers, buffer = lifting.undecay(one.integers, buffer_of(one), jnp.where(begins, scale, 1.0))
        return one._replace(integers=integers, buffer=buffer, scale=scale)

    return of_drifting(unsettled, state, drift.arriving(number))


def with_scales(state: State, scales: dict[str, jax.Array]) -> State:
    """With other scales: {field: [groups]}, or [S, groups] for several runs."""
    return of_drifting(lambda one, scale: one._replace(scale=scale), state, scales)


def of_drifting(change: Callable[..., Fixed], state: State, *scales: dict[str, jax.Array]) -> State:
    """`change` of every number that drifts, and of its scales."""

    def changed(field: str, tree: Params) -> Params:
        numbers, treedef = jax.tree.flatten(tree, is_leaf=is_number)
        return treedef.unflatten(
            [
                one if one.scale is None else change(one, *(_of_group(values[field], group) for values in scales))
                for group, one in enumerate(numbers)
            ]
        )

    return type(state)(*(changed(field, tree) for field, tree in state._asdict().items()))


def _of_group(values: jax.Array, group: int) -> jax.Array:
    return values[..., min(group, values.shape[-1] - 1)]  # one column stands for all groups


def magnitudes(state: State) -> jax.Array:
    """Largest |integer| that each field and group holds, or will before drift is settled, [fields, groups].

    A drifting number is judged by its value, at the least scale: what is called too large must not depend on where in
    a leg one looks. NaN counts as infinite.
    """

    def magnitude(number: Fixed) -> jax.Array:
        largest = jnp.max(jnp.abs(number.integers), initial=0.0)
        return largest if number.scale is None else largest * (number.scale / lifting.LEAST_SCALE)

    largest = jnp.stack([jnp.stack([magnitude(number) for number in numbers_of(field)]) for field in state])
    return jnp.where(jnp.isnan(largest), jnp.inf, largest)


def mismatched_bits(left: State, right: State) -> dict[str, int]:
    """Number of bits in which two fixed-point states differ, of each field and of each field's buffer.

    Arrays are compared one at a time, as XLA on CPU counts into an array of their size.
    """
    counts: dict[str, int] = {}
    for name, one, other in zip(left._fields, left, right, strict=True):
        for a, b in zip(numbers_of(one), numbers_of(other), strict=True):
            counts[name] = counts.get(name, 0) + int(_differing_bits(a.integers, b.integers))
            if a.buffer is not None and b.buffer is not None:
                buffer = f"{name} buffer"
                counts[buffer] = counts.get(buffer, 0) + int(_differing_bits(a.buffer, b.buffer))
    return counts


_differing_bits = jax.jit(differing_bits)
