"""Optimizers that can be undone, each written for one group as a mirrored pair of `step` and `unstep`.

`docs/how-to/write-an-optimizer.md` tells how to add one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from core.reversal.moves import Number, add, computed, decay, product, real, root, subtract, undecay

Array: TypeAlias = jax.Array
Params: TypeAlias = Any  # pytree of arrays; its leaves are the groups
State: TypeAlias = Any  # NamedTuple whose first field is `position` (w); the others are the optimizer's memory
Hypers: TypeAlias = dict[
    str, Array
]  # one step's hyperparameters of one group, by name: scalars, or like the group
Rows: TypeAlias = dict[str, Array]  # {name: [T, groups]}
Unstep: TypeAlias = Generator[Number, Array, State]


class Range(NamedTuple):
    """Values a hyperparameter may take: low ≤ value < high; and the one it has when a schedule leaves it out."""

    low: float = -float("inf")
    high: float = float("inf")
    default: float | None = None


def as_given(rows: Rows) -> Rows:
    return rows


class Optimizer(NamedTuple):
    """A reversible optimizer, as functions of one group (a leaf of the parameters).

    Attributes:
        name: for messages and certificates.
        hyperparameters: what its schedule gives, with the values each may take.
        init: initial weights → state. A NamedTuple; its first field, `position`, holds the weights.
        step: (state, gradient, hypers) → state, in the moves of `core.reversal.moves`.
        unstep: (state, hypers) → state before the step: `step`'s moves undone, from last to first. A generator: once
            the position is recovered it says `gradient = yield position`.
        unit_per_weight: fields whose values differ by orders of magnitude from weight to weight, as squares of
            gradients do: each weight's number has a unit of its own.
        prepare: schedule rows → the rows that `step` reads; differentiable. For hyperparameters that act through their
            history, like the β of Adam's bias correction. Rows it changes must be given per step or group.
    """

    name: str
    hyperparameters: dict[str, Range]
    init: Callable[[Array], State]
    step: Callable[[State, Array, Hypers], State]
    unstep: Callable[[State, Hypers], Unstep]
    prepare: Callable[[Rows], Rows] = as_given
    unit_per_weight: tuple[str, ...] = ()

    def __hash__(self) -> int:
        return hash((self.name, self.init, self.step, self.unstep, self.prepare, self.unit_per_weight))


class Momentum(NamedTuple):
    """State of `sgd` and `heavy_ball`."""

    position: Number  # w
    velocity: Number  # v


def _at_rest(weights: Array) -> Momentum:
    return Momentum(weights, jnp.zeros_like(weights))


def sgd() -> Optimizer:
    """SGD with momentum in the convention of Maclaurin et al. 2015 (their v_t in the position update is a typo).

        v ← γ v − (1 − γ) g
        w ← w + α v

    Schedule: `step_size` α, `momentum` γ in [0, 1).
    """
    ranges = {"step_size": Range(), "momentum": Range(0.0, 1.0)}
    return Optimizer("sgd", ranges, _at_rest, _sgd_step, _sgd_unstep)


def _sgd_step(state: Momentum, gradient: Array, hypers: Hypers) -> Momentum:
    velocity = decay(state.velocity, hypers["momentum"])
    velocity = subtract(velocity, (1 - hypers["momentum"]) * gradient)
    position = add(state.position, hypers["step_size"] * real(velocity))
    return Momentum(position, velocity)


def _sgd_unstep(state: Momentum, hypers: Hypers) -> Unstep:
    position = subtract(state.position, hypers["step_size"] * real(state.velocity))
    gradient = yield position
    velocity = add(state.velocity, (1 - hypers["momentum"]) * gradient)
    velocity = undecay(velocity, hypers["momentum"])
    return Momentum(position, velocity)


def heavy_ball() -> Optimizer:
    """SGD with classic momentum (Polyak 1964; PyTorch's `SGD(momentum=γ)`).

        v ← γ v + g
        w ← w − α v

    Schedule: `step_size` α, `momentum` γ in [0, 1).
    """
    ranges = {"step_size": Range(), "momentum": Range(0.0, 1.0)}
    return Optimizer("heavy_ball", ranges, _at_rest, _heavy_ball_step, _heavy_ball_unstep)


def _heavy_ball_step(state: Momentum, gradient: Array, hypers: Hypers) -> Momentum:
    velocity = add(decay(state.velocity, hypers["momentum"]), gradient)
    position = subtract(state.position, hypers["step_size"] * real(velocity))
    return Momentum(position, velocity)


def _heavy_ball_unstep(state: Momentum, hypers: Hypers) -> Unstep:
    position = add(state.position, hypers["step_size"] * real(state.velocity))
    gradient = yield position
    velocity = undecay(subtract(state.velocity, gradient), hypers["momentum"])
    return Momentum(position, velocity)


class Lookahead(NamedTuple):
    """State of `nesterov`."""

    position: Number  # w
    velocity: Number  # v
    last_gradient: Number  # g


def nesterov() -> Optimizer:
    """Nesterov's accelerated gradient, with the position at the lookahead point (PyTorch's `SGD(nesterov=True)`).

        v ← γ v + g
        w ← w − α (g + γ v)

    Schedule: `step_size` α, `momentum` γ in [0, 1).

    The position moves by the gradient itself, and w ← w − α g(w) has no explicit inverse. So the last gradient is part
    of the state, forgotten whole in every step: 64 stored bits per weight and step more than the decay of v.
    """
    ranges = {"step_size": Range(), "momentum": Range(0.0, 1.0)}
    return Optimizer("nesterov", ranges, _lookahead_at_rest, _nesterov_step, _nesterov_unstep)


def _lookahead_at_rest(weights: Array) -> Lookahead:
    return Lookahead(weights, jnp.zeros_like(weights), jnp.zeros_like(weights))


def _nesterov_step(state: Lookahead, gradient: Array, hypers: Hypers) -> Lookahead:
    step_size, momentum = hypers["step_size"], hypers["momentum"]
    velocity = add(decay(state.velocity, momentum), gradient)
    last = add(decay(state.last_gradient, jnp.zeros_like(momentum)), gradient)
    position = subtract(state.position, step_size * real(last))
    position = subtract(position, step_size * momentum * real(velocity))
    return Lookahead(position, velocity, last)


def _nesterov_unstep(state: Lookahead, hypers: Hypers) -> Unstep:
    step_size, momentum = hypers["step_size"], hypers["momentum"]
    position = add(state.position, step_size * momentum * real(state.velocity))
    position = add(position, step_size * real(state.last_gradient))
    gradient = yield position
    last = undecay(subtract(state.last_gradient, gradient), jnp.zeros_like(momentum))
    velocity = undecay(subtract(state.velocity, gradient), momentum)
    return Lookahead(position, velocity, last)


class Scaled(NamedTuple):
    """State of `rmsprop`, `adam` and `adamw`."""

    position: Number  # w
    moment: Number  # m, first moment or momentum
    square: Number  # ν, second moment


def _scaled_at_rest(weights: Array) -> Scaled:
    return Scaled(weights, jnp.zeros_like(weights), jnp.zeros_like(weights))


def _over_root(numerator: Array, square: Number, epsilon: Array) -> Array:
    """Numerator / (√ν + ε)."""
    size = root(computed(square))
    return numerator.astype(size.dtype) / (size + epsilon.astype(size.dtype))


_EPSILON = Range(0.0, float("inf"), default=1e-8)


def rmsprop() -> Optimizer:
    """RMSprop with momentum (Tieleman & Hinton 2012; PyTorch's `RMSprop(momentum=γ)`).

        ν ← β ν + (1 − β) g²
        m ← γ m + g / (√ν + ε)
        w ← w − α m

    Schedule: `step_size` α; `decay` β in [0, 1), 0.99 unless given; `momentum` γ in [0, 1), 0.9 unless given;
    `epsilon` ε ≥ 0, 1e-8 unless given. With γ = 0 the position moves by the gradient itself, which costs 64 stored
    bits per weight and step (see `nesterov`).
    """
    ranges = {
        "step_size": Range(),
        "decay": Range(0.0, 1.0, 0.99),
        "momentum": Range(0.0, 1.0, 0.9),
        "epsilon": _EPSILON,
    }
    return Optimizer(
        "rmsprop", ranges, _scaled_at_rest, _rmsprop_step, _rmsprop_unstep, unit_per_weight=("square",)
    )


def _rmsprop_step(state: Scaled, gradient: Array, hypers: Hypers) -> Scaled:
    square = add(decay(state.square, hypers["decay"]), (1 - hypers["decay"]) * (gradient * gradient))
    moment = add(decay(state.moment, hypers["momentum"]), _over_root(gradient, square, hypers["epsilon"]))
    position = subtract(state.position, hypers["step_size"] * real(moment))
    return Scaled(position, moment, square)


def _rmsprop_unstep(state: Scaled, hypers: Hypers) -> Unstep:
    position = add(state.position, hypers["step_size"] * real(state.moment))
    gradient = yield position
    moment = subtract(state.moment, _over_root(gradient, state.square, hypers["epsilon"]))
    moment = undecay(moment, hypers["momentum"])
    square = undecay(
        subtract(state.square, (1 - hypers["decay"]) * (gradient * gradient)),
        hypers["decay"],
    )
    return Scaled(position, moment, square)


_ADAM_RANGES = {
    "step_size": Range(),
    "b1": Range(0.0, 1.0, 0.9),
    "b2": Range(0.0, 1.0, 0.999),
    "epsilon": _EPSILON,
}


def adam() -> Optimizer:
    """Adam (Kingma & Ba 2015), exactly as published, bias correction included.

        m ← β1 m + (1 − β1) g ;     m̂ = m / (1 − Πβ1)
        ν ← β2 ν + (1 − β2) g² ;    ν̂ = ν / (1 − Πβ2)
        w ← w − α m̂ / (√ν̂ + ε)

    Schedule: `step_size` α; `b1`, `b2` in [0, 1), 0.9 and 0.999 unless given, as scalars, per step or per group (their
    products run over the steps); `epsilon` ε ≥ 0, 1e-8 unless given.

    The state holds m̂ and ν̂ themselves: they are averages with the decay K = β n / n', n = 1 − Πβ before and n' after
    the step. So the correction costs nothing, and early moments have their full precision.
    """
    return Optimizer("adam", _ADAM_RANGES, _scaled_at_rest, _adam_step, _adam_unstep, _corrected, ("square",))


def _corrected(rows: Rows) -> Rows:
    """β1 and β2 as the decays of the bias-corrected moments."""
    return rows | {name: _corrected_decay(rows[name]) for name in ("b1", "b2")}


def _corrected_decay(decays: Array) -> Array:
    after = 1 - jnp.cumprod(decays, axis=0)
    before = jnp.concatenate([jnp.zeros_like(after[:1]), after[:-1]])
    return decays * before / after


def _adam_moments(state: Scaled, gradient: Array, hypers: Hypers) -> tuple[Number, Number]:
    moment = add(decay(state.moment, hypers["b1"]), (1 - hypers["b1"]) * gradient)
    square = add(decay(state.square, hypers["b2"]), (1 - hypers["b2"]) * (gradient * gradient))
    return moment, square


def _adam_moments_before(state: Scaled, gradient: Array, hypers: Hypers) -> tuple[Number, Number]:
    square = subtract(state.square, (1 - hypers["b2"]) * (gradient * gradient))
    moment = subtract(state.moment, (1 - hypers["b1"]) * gradient)
    return undecay(moment, hypers["b1"]), undecay(square, hypers["b2"])


def _adam_move(moment: Number, square: Number, hypers: Hypers) -> Array:
    return hypers["step_size"] * _over_root(computed(moment), square, hypers["epsilon"])


def _adam_step(state: Scaled, gradient: Array, hypers: Hypers) -> Scaled:
    moment, square = _adam_moments(state, gradient, hypers)
    return Scaled(subtract(state.position, _adam_move(moment, square, hypers)), moment, square)


def _adam_unstep(state: Scaled, hypers: Hypers) -> Unstep:
    position = add(state.position, _adam_move(state.moment, state.square, hypers))
    gradient = yield position
    return Scaled(position, *_adam_moments_before(state, gradient, hypers))


def adamw() -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019; PyTorch's convention): before Adam's move,

        w ← (1 − α λ) w

    Schedule: that of `adam`, and `weight_decay` λ ≥ 0, 0.01 unless given; α λ must lie in [0, 1]. The weights have an
    information buffer of their own.
    """
    ranges = _ADAM_RANGES | {"weight_decay": Range(0.0, float("inf"), 0.01)}
    return Optimizer("adamw", ranges, _scaled_at_rest, _adamw_step, _adamw_unstep, _corrected, ("square",))


def _shrinkage(hypers: Hypers) -> Array:
    return 1 - product(hypers["step_size"], hypers["weight_decay"])


def _adamw_step(state: Scaled, gradient: Array, hypers: Hypers) -> Scaled:
    moment, square = _adam_moments(state, gradient, hypers)
    position = decay(state.position, _shrinkage(hypers))
    return Scaled(subtract(position, _adam_move(moment, square, hypers)), moment, square)


def _adamw_unstep(state: Scaled, hypers: Hypers) -> Unstep:
    position = add(state.position, _adam_move(state.moment, state.square, hypers))
    position = undecay(position, _shrinkage(hypers))
    gradient = yield position
    return Scaled(position, *_adam_moments_before(state, gradient, hypers))
