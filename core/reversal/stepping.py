"""Optimizers over whole models: what is written for one group, carried out for every group."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from core.errors import InvalidOptimizer
from core.reversal import contract
from core.reversal.dependence import depending_outputs
from core.reversal.lifting import UNIT
from core.reversal.moves import Fixed, Noted, Number
from core.reversal.optimizers import Optimizer, Params, State
from core.reversal.seeds import ONE, Seeds

TreeHypers = dict[str, Params]  # one step's hyperparameters by name: pytrees like the parameters
Units = dict[str, Params]  # {field: pytree like the parameters} of powers of two


def rest(optimizer: Optimizer, params: Params) -> State:
    """State that training starts from, in real numbers: each field a pytree like the parameters."""
    leaves, treedef = jax.tree.flatten(params)
    return join([contract.init(optimizer, leaf) for leaf in leaves], treedef)


@partial(jax.jit, static_argnames=("optimizer", "drifting", "seeds"))
def fixed_rest(
    optimizer: Optimizer, params: Params, units: Units, drifting: tuple[str, ...] = (), seeds: Seeds = ONE
) -> State:
    """The fixed-point state that training starts from, with empty buffers beside the fields that decay.

    Args:
        optimizer: whose state it is.
        params: initial weights; with a leading axis for several runs.
        units: of each field and group, scalars; [S] for several runs.
        drifting: fields whose units drift.
        seeds: how several runs lie.
    """
    return seeds.map(partial(_fixed_rest, optimizer, drifting), (0, 0))(params, units)


def _fixed_rest(optimizer: Optimizer, drifting: tuple[str, ...], params: Params, units: Units) -> State:

    def to_fixed(field: str, value: jax.Array, unit: jax.Array) -> Fixed:
        integers = jnp.round(value.astype(jnp.float64) * (1 / unit))
        buffer = jnp.zeros_like(integers) if field in decaying else None
        scale = jnp.ones(()) if field in drifting else None
        return Fixed(integers, jnp.asarray(unit), buffer, scale, compute=value.dtype)

    decaying = anatomy(optimizer).decaying
    state = rest(optimizer, params)
    return state._replace(
        **{
            field: jax.tree.map(lambda value, unit, field=field: to_fixed(field, value, unit), tree, units[field])
            for field, tree in state._asdict().items()
        }
    )


def step(optimizer: Optimizer, state: State, gradient: Params, hypers: TreeHypers) -> State:
    """One step, of a real state (differentiable) or of a fixed-point one (invertible)."""
    gradients, treedef = jax.tree.flatten(gradient)
    taken = [
        contract.returned(optimizer, "step", group, optimizer.step(group, leaf, hyper))
        for group, leaf, hyper in zip(split(state, treedef), gradients, _by_group(hypers, treedef), strict=True)
    ]
    return join(taken, treedef)


def unstep(
    optimizer: Optimizer, state: State, gradient_at: Callable[[Params], Params], hypers: TreeHypers
) -> State:
    """Exact inverse of `step` on fixed-point states.

    Args:
        optimizer: whose step is undone.
        state: after the step.
        gradient_at: position before the step (pytree of Fixed) → the gradient that `step` was given. Called once.
        hypers: what `step` was given.
    """
    treedef = _groups_of(state)
    groups = split(state, treedef)
    moves = [
        optimizer.unstep(group, hyper) for group, hyper in zip(groups, _by_group(hypers, treedef), strict=True)
    ]
    positions = [_first_yield(optimizer, group, move) for group, move in zip(groups, moves, strict=True)]
    gradients = jax.tree.leaves(gradient_at(treedef.unflatten(positions)))
    before = []
    for group, move, gradient in zip(groups, moves, gradients, strict=True):
        try:
            move.send(gradient)
        except StopIteration as end:
            before.append(contract.returned(optimizer, "unstep", group, end.value))
        else:
            raise InvalidOptimizer(f"unstep of {optimizer.name} yields twice; it may ask for the gradient once")
    return join(before, treedef)


def _first_yield(optimizer: Optimizer, group: State, move: Any) -> Number:
    try:
        position = next(move)
    except (StopIteration, TypeError) as error:
        raise InvalidOptimizer(
            f"unstep of {optimizer.name} must be a generator that says `gradient = yield position` once"
        ) from error
    return contract.like(optimizer, f"unstep of {optimizer.name} yields", "position", group.position, position)


def decay_factors(optimizer: Optimizer, shapes: Params, hypers: TreeHypers) -> dict[str, Params]:
    """{field: factor by which a step decays it, a pytree like the parameters}."""
    leaves, treedef = jax.tree.flatten(shapes)
    noted = [
        _noted_factors(optimizer, contract.init(optimizer, jnp.zeros(leaf.shape)), jnp.zeros(leaf.shape), hyper)
        for leaf, hyper in zip(leaves, _by_group(hypers, treedef), strict=True)
    ]
    return {field: treedef.unflatten([one[field] for one in noted]) for field in anatomy(optimizer).decaying}


def _noted_factors(
    optimizer: Optimizer, state: State, gradient: jax.Array, hypers: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    factors: dict[str, jax.Array] = {}
    noted = type(state)(*map(partial(Noted, factors=factors), state, state._fields))
    contract.returned(optimizer, "step", noted, optimizer.step(noted, gradient, hypers))
    return factors


class Anatomy(NamedTuple):
    """What an optimizer's state consists of."""

    fields: tuple[str, ...]  # the position first
    decaying: tuple[str, ...]  # those that a step decays


@lru_cache
def anatomy(optimizer: Optimizer) -> Anatomy:
    """Read off an optimizer's functions.

    Raises:
        InvalidOptimizer: what they do cannot be undone.
    """
    scalar = jax.ShapeDtypeStruct((), jnp.float64)
    state = jax.eval_shape(partial(contract.init, optimizer), scalar)
    unknown = sorted(set(optimizer.unit_per_weight) - set(state._fields))
    if unknown:
        raise InvalidOptimizer(
            f"unit_per_weight of {optimizer.name} names {unknown}; its state's fields are {list(state._fields)}"
        )
    hypers = {name: jnp.asarray(0.5) for name in optimizer.hyperparameters}
    factors = jax.make_jaxpr(
        lambda state, gradient: _noted_factors(optimizer, state, gradient, hypers), return_shape=True
    )
    jaxpr, shapes = factors(state, scalar)
    if any(depending_outputs(jaxpr.jaxpr)):
        raise InvalidOptimizer(
            f"step of {optimizer.name} decays by a factor that depends on the state or the gradient; let it depend on "
            "hyperparameters alone"
        )
    return Anatomy(state._fields, tuple(field for field in state._fields if field in shapes))


def default_units(optimizer: Optimizer, params: Params) -> Units:
    """The same unit for every field and group."""
    return {field: jax.tree.map(lambda leaf: jnp.asarray(UNIT), params) for field in anatomy(optimizer).fields}


def split(state: State, treedef: Any) -> list[State]:
    """One state a group."""
    return [type(state)(*group) for group in zip(*map(treedef.flatten_up_to, state), strict=True)]


def join(groups: list[State], treedef: Any) -> State:
    """One state whose fields are pytrees, from one a group."""
    return type(groups[0])(*(treedef.unflatten(list(field)) for field in zip(*groups, strict=True)))


def _groups_of(state: State) -> Any:
    return jax.tree.structure(state.position, is_leaf=lambda node: isinstance(node, Fixed))


def _by_group(hypers: TreeHypers, treedef: Any) -> list[dict[str, jax.Array]]:
    columns = {name: treedef.flatten_up_to(tree) for name, tree in hypers.items()}
    return [dict(zip(columns, group, strict=True)) for group in zip(*columns.values(), strict=True)]
