"""Chaos: how the derivative of the outer loss grows on its way back through training."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import numpy as np

from core.diagnostics.float_run import FloatRun, never, norm
from core.diagnostics.report import as_json
from core.engines import Problem
from core.engines.problem import Hyper
from core.errors import InvalidProblem
from core.reversal.optimizers import Optimizer


class AdjointGrowth(NamedTuple):
    """How the derivative of the outer loss grows on its way back through training."""

    steps: np.ndarray  # [S] int64, ascending from 0 to T
    norms: np.ndarray  # [S] float64, ‖d(outer loss)/d(w_t)‖₂ over all groups, outer loss per weight
    growth_per_step: (
        float  # slope of log norm against T − t, per step: > 0 is chaos, < 0 forgetting; nan if unknown
    )

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return as_json(self._asdict())


def adjoint_growth(
    problem: Problem,
    hyper: Hyper,
    *,
    optimizer: Optimizer,
    num_steps: int,
    key: jax.Array,
    samples: int = 64,
    interrupt: Callable[[], None] = never,
) -> AdjointGrowth:
    """Norm of the adjoint d(outer loss)/d(w_t), the rest of the state held, at about `samples` steps t.

    The adjoint of the state s_{t+1} = Φ_t(s_t) obeys λ_t = (∂Φ_t/∂s_t)ᵀ λ_{t+1}. Its growth per step backward is,
    up to the finite length of training, the largest Lyapunov exponent: where that is positive, hypergradients
    explode with T, and the outer loss is a rough function of the hyperparameters.

    Exact, by autodiff in the precision of the parameters. Memory: at most `samples` states on the host and about
    2 √(T / samples) on the device. Time: about 6 gradients a step.

    Args:
        problem, hyper, optimizer, num_steps, key: as for `hypergradient`; one key.
        samples: intervals between the steps looked at, at most; 0 and T are always among the steps.
        interrupt: called between the pieces of a run; what it raises ends it.

    References:
        Maclaurin et al. 2015, section 4 (chaos); Metz et al. 2021, "Gradients are not all you need".
    """
    if samples < 1:
        raise InvalidProblem(f"samples is {samples}; it must be at least 1")
    run = FloatRun(problem, hyper, optimizer, num_steps, key, interrupt)
    piece = math.ceil(math.sqrt(num_steps / samples))  # steps that one call pulls back
    stride = piece * math.ceil(num_steps / (samples * piece))  # steps between samples
    steps = np.append(np.arange(0, num_steps, stride), num_steps)
    state, saved = run.start(), []
    for start, stop in pairwise(steps):
        saved.append(jax.device_get(state))
        state = run.forward(state, start, stop)
    adjoint = run.outer_adjoint(state)
    backward = [norm(adjoint.position)]
    for start, stop in reversed(list(pairwise(steps))):
        starts = range(start, stop, piece)
        states = list(run.forward_through(saved.pop(), starts))
        for low in reversed(starts):
            adjoint = run.pull_back(states.pop(), low, min(low + piece, stop), adjoint)
        backward.append(norm(adjoint.position))
    norms = np.array([float(norm) for norm in reversed(backward)])
    return AdjointGrowth(steps, norms, _slope(num_steps - steps, norms))


def _slope(x: np.ndarray, norms: np.ndarray) -> float:
    """Slope of log norms against x, by least squares over those that have a logarithm."""
    known = np.isfinite(norms) & (norms > 0)
    if known.sum() < 2:
        return math.nan
    return float(np.polyfit(x[known], np.log(norms[known]), 1)[0])
