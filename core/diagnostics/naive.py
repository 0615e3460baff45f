"""What ordinary floats make of running training backward: why the exact reversal is needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.diagnostics.float_run import FloatRun, never, norm
from core.diagnostics.report import as_json
from core.engines import Problem
from core.engines.floating import undoing
from core.engines.problem import Hyper, Params
from core.errors import InvalidProblem
from core.reversal.optimizers import Optimizer, State


class NaiveReversal(NamedTuple):
    """How far training that is undone in ordinary floats strays from where it came."""

    steps: np.ndarray  # [S] int64, ascending from 0 to T
    distances: np.ndarray  # [S] float64, ‖w recovered − w‖₂ / ‖w‖₂ at these steps; 0 at T
    start_missed_by: float  # the distance at step 0

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return as_json(self._asdict())


def naive_reversal(
    problem: Problem,
    hyper: Hyper,
    *,
    optimizer: Optimizer,
    num_steps: int,
    key: jax.Array,
    samples: int = 64,
    interrupt: Callable[[], None] = never,
) -> NaiveReversal:
    """Train in ordinary floats, undo every step in ordinary floats, and compare with where training had been.

    A step that scales the velocity by γ loses log2(1/γ) bits of each number, and undoing it divides the rounding
    error by γ: after t steps it has grown by γ⁻ᵗ. Where γ is 0 there is nothing to undo it from: the distances are
    nan, None in `as_dict`.

    Args:
        problem, hyper, optimizer, num_steps, key: as for `hypergradient`; one key.
        samples: steps looked at, at most, besides 0 and T.
        interrupt: called between the pieces of a run; what it raises ends it.

    References:
        Maclaurin et al. 2015, section 3.
    """
    if samples < 1:
        raise InvalidProblem(f"samples is {samples}; it must be at least 1")
    run = FloatRun(problem, hyper, optimizer, num_steps, key, interrupt)
    steps = np.unique(np.linspace(0, num_steps, samples + 2).astype(int))
    state, passed = run.start(), []
    for start, stop in pairwise(steps):
        passed.append(jax.device_get(state.position))
        state = run.forward(state, start, stop)
    distances = [0.0]
    for start, stop in reversed(list(pairwise(steps))):
        for low, high in run.pace.timed(int(start), int(stop), backward=True):
            interrupt()
            state = jax.block_until_ready(
                _undo(run.problem, run.hyper, run.key, run.optimizer, run.num_steps, state, low, high)
            )
        distances.append(float(_distance(state.position, passed.pop())))
    found = np.array(distances[::-1])
    return NaiveReversal(steps, found, float(found[0]))


@partial(jax.jit, static_argnames=("optimizer", "num_steps"))
def _undo(
    problem: Problem,
    hyper: Hyper,
    key: jax.Array,
    optimizer: Optimizer,
    num_steps: int,
    state: State,
    start: int,
    stop: int,
) -> State:
    undo = undoing(problem, hyper, key, optimizer, num_steps)
    return jax.lax.fori_loop(0, stop - start, lambda done, state: undo(state, stop - 1 - done), state)


@jax.jit
def _distance(found: Params, expected: Params) -> jax.Array:
    return norm(jax.tree.map(jnp.subtract, found, expected)) / norm(expected)
