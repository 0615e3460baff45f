"""How much of a hypergradient is the luck of its seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from core.diagnostics.directions import wide_leaves
from core.diagnostics.float_run import never
from core.diagnostics.report import as_json
from core.engines import Engine, Problem, hypergradient
from core.engines.arguments import typed
from core.engines.problem import Hyper
from core.errors import InvalidProblem
from core.reversal.optimizers import Optimizer


class HypergradientVariance(NamedTuple):
    """How hypergradients differ from seed to seed."""

    seeds: int  # S
    norm: float  # of the mean gradient, outer loss per hyperparameter
    leaf_norms: dict[str, float]  # of the mean gradient, by leaf of `hyper`
    standard_errors: dict[str, float]  # norm of the standard error of that mean, by leaf
    signal_to_noise: float  # norm of the mean over that of one seed's standard deviation; inf without noise
    cosine: float  # mean cosine similarity of two seeds' gradients; nan where a gradient is 0

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return as_json(self._asdict())


def hypergradient_variance(
    problem: Problem,
    hyper: Hyper,
    *,
    optimizer: Optimizer,
    num_steps: int,
    keys: jax.Array,
    engine: Engine | None = None,
    interrupt: Callable[[], None] = never,
) -> HypergradientVariance:
    """Spread of the hypergradient over seeds: initial weights and whatever else the key decides.

    A signal-to-noise ratio of r says that the mean of n seeds points the right way once n exceeds about 1 / r².
    Holds a few gradients at a time, however many seeds (Welford's recurrence).

    Args:
        problem, hyper, optimizer, num_steps, engine: as for `hypergradient`.
        keys: two keys or more.
        interrupt: called between seeds; what it raises ends the measurement.

    Raises:
        FixedPointOverflow, UncertifiedGradient: as `hypergradient` does, on any seed.
    """
    keys = typed(keys)
    if keys.ndim != 1 or len(keys) < 2:
        raise InvalidProblem(f"keys has shape {keys.shape}; a variance needs a vector of at least 2")
    count = 0
    for count, key in enumerate(keys, start=1):
        interrupt()
        found = hypergradient(problem, hyper, optimizer=optimizer, num_steps=num_steps, key=key, engine=engine)
        gradient = wide_leaves(found.gradient)
        norm = _length(gradient)
        unit = [leaf / norm if norm else np.full_like(leaf, np.nan) for leaf in gradient]
        if count == 1:
            mean, units = gradient, unit
            squares = [np.zeros_like(leaf) for leaf in gradient]  # of deviations, summed
            continue
        change = [leaf - old for leaf, old in zip(gradient, mean, strict=True)]
        mean = [old + leaf / count for old, leaf in zip(mean, change, strict=True)]
        squares = [
            old + moved * (leaf - new)
            for old, moved, leaf, new in zip(squares, change, gradient, mean, strict=True)
        ]
        units = [old + leaf for old, leaf in zip(units, unit, strict=True)]
    deviations = [math.sqrt(float(np.sum(leaf)) / (count - 1)) for leaf in squares]
    names, size, noise = _leaf_names(hyper), _length(mean), _length(deviations)
    return HypergradientVariance(
        seeds=count,
        norm=size,
        leaf_norms={name: _length([leaf]) for name, leaf in zip(names, mean, strict=True)},
        standard_errors={name: one / math.sqrt(count) for name, one in zip(names, deviations, strict=True)},
        signal_to_noise=size / noise if noise else math.inf if size else math.nan,
        # ‖Σ u‖² = S + Σ of the cosines of all ordered pairs
        cosine=(_length(units) ** 2 - count) / (count * (count - 1)),
    )


def _length(leaves: list[Any]) -> float:
    with np.errstate(over="ignore"):
        return math.sqrt(sum(float(np.sum(np.square(leaf))) for leaf in leaves))


def _leaf_names(hyper: Hyper) -> list[str]:
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(hyper)[0]]
    return [jax.tree_util.keystr(path, simple=True, separator=".") or "hyper" for path in paths]
