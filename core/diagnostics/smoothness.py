"""Whether a small move of the hyperparameters moves what is trained smoothly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from core.diagnostics.directions import check_like, moved, random_direction, wide_leaves
from core.diagnostics.float_run import FloatRun, never
from core.diagnostics.report import as_json
from core.engines import Problem
from core.engines.problem import Hyper
from core.errors import InvalidProblem
from core.reversal.optimizers import Optimizer


class Metasmoothness(NamedTuple):
    """How smoothly training answers to its hyperparameters along a line."""

    sign_agreement: float  # Ŝ in [−1, 1], unitless: 1 is smooth, 0 noise; nan where no weight moves
    second_difference: float  # S ≥ 0, outer loss per squared `direction`: the smaller, the smoother
    values: np.ndarray  # [points] float64, outer loss at hyper + i · step · direction
    step: float  # h, in units of `direction`

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return as_json(self._asdict())


def metasmoothness(
    problem: Problem,
    hyper: Hyper,
    direction: Hyper | None = None,
    *,
    optimizer: Optimizer,
    num_steps: int,
    key: jax.Array,
    step: float = 0.01,
    points: int = 3,
    interrupt: Callable[[], None] = never,
) -> Metasmoothness:
    """Empirical metasmoothness at z = `hyper` along v = `direction`, from trainings alone.

    With θ_i the trained weights and f_i the outer loss at z + i h v:

        S = |f_2 − 2 f_1 + f_0| / h²                                                 (Definition 1)
        Ŝ = sign(θ_1 − θ_0)ᵀ diag(d / ‖d‖₁) sign(θ_2 − θ_1),   d = |θ_2 − θ_0|        (Definition 2)

    Ŝ is the share of the weights' movement in which two consecutive finite differences agree in sign, less the
    share in which they do not. With more than three points, both are means over all consecutive triples.

    Args:
        problem, hyper, optimizer, num_steps, key: as for `hypergradient`; one key, the same in every training.
        direction: pytree like `hyper`. Random signs unless given, scaled to each leaf as in
            `finite_difference_check`.
        step: h > 0. The scale to ask about is that of one update of the hyperparameters.
        points: trainings, at least 3.
        interrupt: called between the pieces of a run; what it raises ends it.

    References:
        Engstrom et al. 2025, "Optimizing ML training with metagradient descent" (arXiv 2503.13751), section 3.1.
    """
    if points < 3:
        raise InvalidProblem(f"points is {points}; a second difference needs at least 3")
    if not step > 0:
        raise InvalidProblem(f"step is {step}; it must be above 0")
    run = FloatRun(problem, hyper, optimizer, num_steps, key, interrupt)
    if direction is None:
        direction = random_direction(run.hyper, np.random.default_rng(0))
    check_like(run.hyper, direction, "direction")
    values: list[float] = []
    weights: list[np.ndarray] = []  # of the last three trainings
    agreements, differences = [], []
    for number in range(points):
        value, params = run.trained(moved(run.hyper, direction, number * step))
        values.append(value)
        weights = [*weights[-2:], np.concatenate([leaf.ravel() for leaf in wide_leaves(params)])]
        if number >= 2:
            with np.errstate(invalid="ignore", over="ignore"):  # where training diverged
                agreements.append(_sign_agreement(*weights))
                differences.append(abs(values[-1] - 2 * values[-2] + values[-3]) / step**2)
    return Metasmoothness(float(np.mean(agreements)), float(np.mean(differences)), np.array(values), float(step))


def _sign_agreement(first: np.ndarray, second: np.ndarray, third: np.ndarray) -> float:
    """Ŝ of three trained weight vectors; nan where none moved."""
    range_ = np.abs(third - first)
    agreement = np.sign(second - first) * np.sign(third - second)
    return float(range_ @ agreement / np.sum(range_))
