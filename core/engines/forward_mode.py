"""Forward mode: derivatives carried along with training, one direction of hyperparameter space each.

Memory does not depend on the number of steps; time grows with the number of hyperparameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from core.engines.arguments import an_int
from core.engines.engine import Engine
from core.engines.float_engine import FloatEngine, Outcome
from core.engines.floating import dynamics
from core.engines.problem import Hyper, Params, Problem
from core.errors import InvalidProblem
from core.reversal.optimizers import Optimizer

_MOST_DIRECTIONS = 10_000


@dataclass(frozen=True)
class ForwardMode(FloatEngine):
    """See `forward_mode`."""

    at_once: int
    window: int | None
    time_axis: int | None = None  # its length, where that is not the number of steps: see `shortened`

    name = "forward_mode"

    @property
    def complete(self) -> bool:  # type: ignore[override]
        """Whether its gradient is the whole one."""
        return self.window is None

    @property
    def exact_for(self) -> str:  # type: ignore[override]
        """What its gradient is exact for."""
        if self.window is None:
            return "every hyperparameter, up to the rounding of floats; nothing is proven"
        return f"hyperparameters without a time axis, and the sum over each window of {self.window} steps of the others"

    def differentiate(
        self, problem: Problem, hyper: Hyper, key: jax.Array, optimizer: Optimizer, num_steps: int
    ) -> Outcome:
        """See `FloatEngine`."""

        def trained(hyper: Hyper) -> tuple[jax.Array, tuple[Params, jax.Array]]:
            state, take = dynamics(problem, hyper, key, optimizer, num_steps)
            state, largest = jax.lax.scan(take, state, jnp.arange(num_steps))
            return problem.outer_loss(state.position, hyper, key), (state.position, largest)

        length = self.time_axis or num_steps
        flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: self._in_windows(leaf, length), hyper))
        if len(flat) > _MOST_DIRECTIONS:
            raise InvalidProblem(
                f"hyper has {len(flat)} directions for forward mode, which takes at most {_MOST_DIRECTIONS}; choose "
                "reversible(), or give forward_mode a longer window"
            )

        def over_time(windows: Any) -> Hyper:
            return jax.tree.map(lambda leaf, one: self._over_steps(leaf, one, length), hyper, windows)

        def derivative(direction: jax.Array) -> jax.Array:
            along = over_time(unravel(jax.nn.one_hot(direction, len(flat), dtype=flat.dtype)))
            return jax.jvp(lambda hyper: trained(hyper)[0], (hyper,), (along,))[1]

        derivatives = jax.lax.map(derivative, jnp.arange(len(flat)), batch_size=self.at_once)
        sums = over_time(unravel(derivatives.astype(flat.dtype)))
        gradient = jax.tree.map(lambda leaf: self._mean(leaf, length), sums)
        value, (params, largest) = trained(hyper)
        return Outcome(value, gradient, params, largest)

    def shortened(self, num_steps: int, short: int) -> Engine:
        """See `Engine`. Leaves keep the time axis that they have, and so the directions there are."""
        return replace(self, time_axis=self.time_axis or num_steps)

    def _window_of(self, leaf: jax.Array, length: int) -> int | None:
        """Steps that share a row of this leaf; None if it has no time axis, which has this length."""
        return self.window if leaf.ndim > 0 and len(leaf) == length else None

    def _in_windows(self, leaf: jax.Array, length: int) -> jax.Array:
        """One row a window instead of one a step."""
        return leaf if leaf.ndim == 0 else leaf[:: self._window_of(leaf, length)]

    def _over_steps(self, leaf: jax.Array, windows: jax.Array, length: int) -> jax.Array:
        """Each window's row in all its steps."""
        window = self._window_of(leaf, length)
        return windows if window is None else jnp.repeat(windows, window, axis=0)[:length]

    def _mean(self, leaf: jax.Array, length: int) -> jax.Array:
        """Divided by the number of steps in each step's window."""
        window = self._window_of(leaf, length)
        if window is None:
            return leaf
        number = jnp.arange(length) // window
        lengths = jnp.bincount(number, length=length)[number]
        return leaf / lengths.reshape(-1, *[1] * (leaf.ndim - 1)).astype(leaf.dtype)


def forward_mode(at_once: int = 32, window: int | None = None) -> ForwardMode:
    """Engine that carries derivatives forward (Franceschi et al. 2017), for few hyperparameters.

    Args:
        at_once: directions that are carried through one training together.
        window: steps over which a hyperparameter with a time axis (one whose first axis has length T) is taken to be
            shared (Micaelli & Storkey 2021): one direction a window. Each step gets its window's mean derivative.

    Raises:
        InvalidProblem: there are no such numbers.
    """
    return ForwardMode(an_int("at_once", at_once), None if window is None else an_int("window", window))
