"""Training, looked at in every step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.diagnostics.float_run import FloatRun, never
from core.diagnostics.report import as_json
from core.engines import Problem
from core.engines.floating import dynamics
from core.engines.problem import Hyper
from core.reversal.optimizers import Optimizer, State


class Path(NamedTuple):
    """What training passes through."""

    losses: np.ndarray  # [T] float64, inner loss before each step, on that step's data
    weights: np.ndarray | None  # [T + 1, weights] float64, if they were asked for

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return as_json(self._asdict())


def path(
    problem: Problem,
    hyper: Hyper,
    *,
    optimizer: Optimizer,
    num_steps: int,
    key: jax.Array,
    keep_weights: bool = False,
    interrupt: Callable[[], None] = never,
) -> Path:
    """Inner loss, and the weights if wanted, in every step of training in ordinary floats.

    Args:
        problem, hyper, optimizer, num_steps, key: as for `hypergradient`; one key.
        keep_weights: for small problems: T + 1 copies of all weights.
        interrupt: called between the pieces of a run; what it raises ends it.
    """
    run = FloatRun(problem, hyper, optimizer, num_steps, key, interrupt)
    state = run.start()
    size = sum(leaf.size for leaf in jax.tree.leaves(state.position)) if keep_weights else 0
    seen = Seen(jnp.zeros(num_steps), jnp.zeros((num_steps, size)))
    for start, stop in run.pace.timed(0, num_steps):
        interrupt()
        state, seen = jax.block_until_ready(
            _watch(run.problem, run.hyper, run.key, run.optimizer, num_steps, state, seen, start, stop)
        )
    if not keep_weights:
        return Path(np.asarray(seen.losses), None)
    return Path(np.asarray(seen.losses), np.asarray(jnp.concatenate([seen.weights, _flat(state)[None]])))


class Seen(NamedTuple):
    """Before each step."""

    losses: jax.Array  # [T]
    weights: jax.Array  # [T, weights]; none unless they are kept


def _flat(state: State) -> jax.Array:
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(state.position)]).astype(jnp.float64)


@partial(jax.jit, static_argnames=("optimizer", "num_steps"))
def _watch(
    problem: Problem,
    hyper: Hyper,
    key: jax.Array,
    optimizer: Optimizer,
    num_steps: int,
    state: State,
    seen: Seen,
    start: int,
    stop: int,
) -> tuple[State, Seen]:
    _, take = dynamics(problem, hyper, key, optimizer, num_steps)

    def watch(step: jax.Array, both: Any) -> Any:
        state, seen = both
        loss = problem.inner_loss(state.position, hyper, step, jax.random.fold_in(key, step))
        weights = seen.weights.at[step].set(_flat(state)) if seen.weights.shape[1] else seen.weights
        return take(state, step)[0], Seen(seen.losses.at[step].set(loss.astype(jnp.float64)), weights)

    return jax.lax.fori_loop(start, stop, watch, (state, seen))
