"""Loss and derivative along one hyperparameter: what chaos looks like, and what memory costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from core.engines import Engine, Problem, hypergradient
from core.errors import UNTRAINABLE
from core.hyperparameters import Layout, unconstrain
from core.meta_optimization import MetaIteration, MetaState, Scanned
from core.reversal.optimizers import Optimizer
from core.spec import Scan


def points_of(asked: Scan, layout: Layout) -> np.ndarray:
    """Unconstrained values to visit, in order."""
    if asked.values is not None:
        return np.asarray(unconstrain(np.array(asked.values), layout.transform), np.float64)
    grid: Any = (asked.start, asked.stop, asked.num)  # `Scan` sees to it that these are given
    return np.linspace(*grid)


def scan(
    problem: Callable[[int], Problem],
    name: str,
    points: np.ndarray,
    *,
    num_steps: int,
    keys: Callable[[int], jax.Array],
    optimizer: Optimizer,
    engine: Engine,
    resume_from: MetaState,
) -> Iterator[MetaIteration]:
    """Visit every point, yielding loss and hypergradient there; training that cannot be done is a finding, no error.

    Args:
        problem: of each visit.
        name: of the hyperparameter, all of whose entries are set to the point.
        points: unconstrained.
        num_steps, keys, optimizer, engine: as for `meta_optimize`.
        resume_from: where to begin; its `hyper` holds the other hyperparameters.

    Raises:
        UncertifiedGradient, X64Disabled: as for `hypergradient`.
    """
    state = resume_from
    while state.iteration < len(points):
        number, began = state.iteration, time.perf_counter()
        hyper = state.hyper | {name: jnp.full_like(state.hyper[name], points[number])}
        try:
            result = hypergradient(
                problem(number), hyper, optimizer=optimizer, num_steps=num_steps, key=keys(number), engine=engine
            )
            value, norm = float(result.value), float(optax.tree.norm(result.gradient))
            found = Scanned(float(points[number]), float(jnp.sum(result.gradient[name])))
        except UNTRAINABLE:
            result, value, norm, found = None, float("nan"), float("nan"), Scanned(float(points[number]), None)
        is_best = not np.isnan(value) and (state.best_value is None or value < state.best_value)
        after = _next(state, hyper, name, points, number if is_best else None, value)
        yield MetaIteration(number, hyper, result, norm, time.perf_counter() - began, is_best, after, found)
        state = after


def _next(
    state: MetaState, hyper: dict[str, Any], name: str, points: np.ndarray, best: int | None, value: float
) -> MetaState:
    following = points[min(state.iteration + 1, len(points) - 1)]
    return state._replace(
        iteration=state.iteration + 1,
        hyper=hyper | {name: jnp.full_like(hyper[name], following)},
        best_iteration=state.best_iteration if best is None else best,
        best_value=state.best_value if best is None else value,
    )
