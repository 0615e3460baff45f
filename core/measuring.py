"""What a specification wants measured at a meta-iteration, by the names it has there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from core.diagnostics import (
    adjoint_growth,
    finite_difference_check,
    hypergradient_variance,
    metasmoothness,
    naive_reversal,
    path,
)
from core.engines import Engine, Problem
from core.errors import UNTRAINABLE, UncertifiedGradient
from core.keys import Stream, key_of
from core.spec.meta import Diagnostics


def measured(
    asked: Diagnostics,
    problem: Problem,
    hyper: Any,
    *,
    key: jax.Array,
    gradient: Any | None,
    step: float,
    engine: Engine,
    **run: Any,
) -> dict[str, Any]:
    """Measurements as JSON values, and `seconds` that they took together.

    Args:
        asked: which ones.
        problem: of the meta-iteration.
        hyper: where to measure.
        key: of its first training run.
        gradient: the hypergradient there, if it is of that run alone.
        step: of the descent, for metasmoothness.
        engine: of hypergradients.
        run: what every measurement takes: `optimizer`, `num_steps`, `interrupt`.
    """
    began = time.perf_counter()
    measurements: dict[str, Callable[[], Any]] = {}
    if asked.adjoint_growth:
        measurements["adjoint_growth"] = lambda: adjoint_growth(problem, hyper, key=key, **run)
    if asked.metasmoothness:
        measurements["metasmoothness"] = lambda: metasmoothness(problem, hyper, key=key, step=step, **run)
    if directions := asked.finite_differences:
        measurements["finite_differences"] = lambda: finite_difference_check(
            problem, hyper, gradient, key=key, directions=directions, engine=engine, **run
        )
    if asked.seeds:
        keys = jnp.stack([key_of(Stream.DIAGNOSTICS, number) for number in range(asked.seeds)])
        measurements["seeds"] = lambda: hypergradient_variance(problem, hyper, keys=keys, engine=engine, **run)
    if asked.path:
        measurements["path"] = lambda: path(problem, hyper, key=key, keep_weights=True, **run)
    if asked.naive_reversal:
        measurements["naive_reversal"] = lambda: naive_reversal(problem, hyper, key=key, **run)
    found = {name: _as_json(measure) for name, measure in measurements.items()}
    return found | {"seconds": time.perf_counter() - began}


def _as_json(measure: Callable[[], Any]) -> dict[str, Any]:
    """A measurement that training elsewhere defeats is no reason to end the job."""
    try:
        found: dict[str, Any] = measure().as_dict()
    except (*UNTRAINABLE, UncertifiedGradient) as error:
        return {"error": {"code": error.code, "message": str(error)}}
    return found
