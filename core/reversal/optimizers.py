"""Optimizers that can be undone. `update` is the mathematics in real numbers; `step` and `unstep` are the same
recurrence on fixed-point numbers, as a mirrored pair that loses nothing.

A state is a NamedTuple: `position` (w), the optimizer's memory, and `buffers`, a dict that gives each decayed
field (by name) its information buffers. In real states `buffers` is empty.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from core.reversal.lifting import decay, to_fixed, undecay

Params: TypeAlias = Any  # pytree of arrays; its leaves are the groups
State: TypeAlias = Any  # NamedTuple with fields position, …, buffers
Hypers: TypeAlias = dict[str, Params]  # one step's hyperparameters by name: scalars or arrays, a leaf per group


class Optimizer(NamedTuple):
    """A reversible optimizer, as functions.

    Attributes:
        hyperparameters: names that its schedule must give, with the interval [low, high) each must lie in.
        init: initial parameters → state at rest. Works on real and on fixed-point parameters alike.
        update: (state, gradient, hypers) → state, in real numbers; must be differentiable in all three.
        step: (state, gradient, hypers) → state, on fixed-point states; agrees with `update` up to rounding.
        unstep: (state, gradient_at, hypers) → state, the exact inverse of `step`. It recovers the position first
            and calls `gradient_at(position)` once for the gradient that `step` was given.
        decays: hypers → {field: factors}, the factor by which `step` decays each buffered field.
    """

    hyperparameters: dict[str, tuple[float, float]]
    init: Callable[[Params], State]
    update: Callable[[State, Params, Hypers], State]
    step: Callable[[State, Params, Hypers], State]
    unstep: Callable[[State, Callable[[Params], Params], Hypers], State]
    decays: Callable[[Hypers], dict[str, Params]]

    def __hash__(self) -> int:
        return hash(self[1:])


@partial(jax.jit, static_argnames="optimizer")
def at_rest(optimizer: Optimizer, params: Params) -> State:
    """The fixed-point state that training starts from."""
    return optimizer.init(jax.tree.map(to_fixed, params))


class MomentumState(NamedTuple):
    """State of `sgd`."""

    position: Params  # w
    velocity: Params  # v, same unit
    buffers: dict[str, Params]  # {"velocity": bits shed by the momentum decay}


def sgd() -> Optimizer:
    """SGD with momentum in the convention of Maclaurin et al. 2015 (their v_t in the position update is a typo).

        v ← γ v − (1 − γ) g
        w ← w + α v

    Schedule: `step_size` α, `momentum` γ in [0, 1).
    """
    return Optimizer(
        hyperparameters={"step_size": (-float("inf"), float("inf")), "momentum": (0.0, 1.0)},
        init=_momentum_init,
        update=_sgd_update,
        step=_sgd_step,
        unstep=_sgd_unstep,
        decays=_momentum_decays,
    )


def _momentum_init(params: Params) -> MomentumState:
    return MomentumState(
        params, jax.tree.map(jnp.zeros_like, params), {"velocity": jax.tree.map(jnp.zeros_like, params)}
    )


def _momentum_decays(hypers: Hypers) -> dict[str, Params]:
    return {"velocity": hypers["momentum"]}


def _sgd_update(state: MomentumState, gradient: Params, hypers: Hypers) -> MomentumState:
    velocity = jax.tree.map(lambda v, g, m: m * v - (1 - m) * g, state.velocity, gradient, hypers["momentum"])
    position = jax.tree.map(lambda w, v, a: w + a * v, state.position, velocity, hypers["step_size"])
    return MomentumState(position, velocity, {})


def _sgd_step(state: MomentumState, gradient: Params, hypers: Hypers) -> MomentumState:
    velocity, buffer = _map2(decay, state.velocity, state.buffers["velocity"], hypers["momentum"])
    velocity = jax.tree.map(lambda v, g, m: v - _gain(g, m), velocity, gradient, hypers["momentum"])
    position = jax.tree.map(lambda w, v, a: w + jnp.round(a * v), state.position, velocity, hypers["step_size"])
    return MomentumState(position, velocity, {"velocity": buffer})


def _sgd_unstep(state: MomentumState, gradient_at: Callable[[Params], Params], hypers: Hypers) -> MomentumState:
    position = jax.tree.map(
        lambda w, v, a: w - jnp.round(a * v), state.position, state.velocity, hypers["step_size"]
    )
    gradient = gradient_at(position)
    velocity = jax.tree.map(lambda v, g, m: v + _gain(g, m), state.velocity, gradient, hypers["momentum"])
    velocity, buffer = _map2(undecay, velocity, state.buffers["velocity"], hypers["momentum"])
    return MomentumState(position, velocity, {"velocity": buffer})


def _gain(gradient: jax.Array, momentum: jax.Array) -> jax.Array:
    """(1 − γ) g in fixed point."""
    return to_fixed((1 - momentum) * gradient.astype(jnp.float64))


def _map2(function: Callable[..., tuple[Any, Any]], tree: Params, *rest: Params) -> tuple[Params, Params]:
    """`jax.tree.map` of a function with two results, as two trees."""
    leaves, treedef = jax.tree.flatten(tree)
    pairs = [function(*group) for group in zip(leaves, *map(jax.tree.leaves, rest), strict=True)]
    firsts, seconds = zip(*pairs, strict=True)
    return treedef.unflatten(firsts), treedef.unflatten(seconds)
