"""Whether a hypergradient agrees with finite differences of the outer loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.diagnostics.directions import check_like, moved, random_direction, wide_leaves
from core.diagnostics.float_run import FloatRun, never
from core.diagnostics.report import as_json
from core.engines import Engine, Problem, hypergradient
from core.engines.problem import Hyper
from core.errors import InvalidProblem
from core.reversal.optimizers import Optimizer


class FiniteDifferenceCheck(NamedTuple):
    """A hypergradient beside central differences of the outer loss, direction by direction."""

    predicted: np.ndarray  # [directions] float64, ⟨gradient, direction⟩, outer loss per unit of direction
    measured: np.ndarray  # [directions] float64, the same by central differences
    relative_errors: np.ndarray  # [directions], unitless; see `finite_difference_check`
    rounding: np.ndarray  # [directions], relative error to expect from rounding the outer loss alone
    worst: float  # largest relative error
    step: float  # h, in units of direction

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return as_json(self._asdict())


def finite_difference_check(
    problem: Problem,
    hyper: Hyper,
    gradient: Hyper | None = None,
    *,
    optimizer: Optimizer,
    num_steps: int,
    key: jax.Array,
    directions: int = 8,
    step: float | None = None,
    engine: Engine | None = None,
    interrupt: Callable[[], None] = never,
) -> FiniteDifferenceCheck:
    """Hold a hypergradient against (f(z + h d) − f(z − h d)) / 2h along random directions d.

    A direction moves one leaf of `hyper`, in turn, so that none hides behind the gradient of a larger one; where
    there are more leaves than directions, several. Every value in it moves by ± the leaf's scale: the root mean
    square of its values, kept within [0.001, 1], and 1 where all are 0. So small natural values and unconstrained
    ones (logs, logits) both move sensibly by one `step`.

    An error is relative to the root mean square of the derivatives, predicted or measured, whichever is larger,
    over all directions that move the same leaves: one that happens to be level does not inflate it.

    Args:
        problem, hyper, optimizer, num_steps, key: as for `hypergradient`; one key.
        gradient: to be checked, a pytree like `hyper`; that of `engine` unless given.
        directions: at least 1; two trainings each.
        step: h. 1e-4 unless given, or the cube root of the rounding unit (5e-3 in float32) where that is larger.
        engine: as for `hypergradient`.
        interrupt: called between the pieces of a training; what it raises ends it.
    """
    if directions < 1:
        raise InvalidProblem(f"directions is {directions}; it must be at least 1")
    if step is not None and not step > 0:
        raise InvalidProblem(f"step is {step}; it must be above 0")
    run = FloatRun(problem, hyper, optimizer, num_steps, key, interrupt)
    if gradient is None:
        found = hypergradient(problem, hyper, optimizer=optimizer, num_steps=num_steps, key=key, engine=engine)
        gradient = found.gradient
    check_like(run.hyper, gradient, "gradient")
    value, params = run.trained(run.hyper)
    unit = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves((params, run.hyper)))
    step = max(1e-4, unit ** (1 / 3)) if step is None else step
    turns = min(directions, len(jax.tree.leaves(run.hyper)))
    predicted, measured = np.zeros(directions), np.zeros(directions)
    random = np.random.default_rng(0)
    for number in range(directions):
        direction = _only(random_direction(run.hyper, random), number % turns, turns)
        ahead, behind = moved(run.hyper, direction, step), moved(run.hyper, direction, -step)
        # by how far values were moved once rounded, not by how far they should have been
        leaves = zip(*map(wide_leaves, (gradient, ahead, behind)), strict=True)
        predicted[number] = sum(np.vdot(slope, plus - minus) for slope, plus, minus in leaves) / (2 * step)
        measured[number] = (run.trained(ahead)[0] - run.trained(behind)[0]) / (2 * step)
    group = np.arange(directions) % turns
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # where training diverged
        scales = np.array([_typical(predicted[group == one], measured[group == one]) for one in group])
        errors = np.abs(predicted - measured) / scales
        rounding = unit * abs(value) / step / scales
    errors[scales == 0] = rounding[scales == 0] = 0.0  # nothing was predicted, and nothing measured
    return FiniteDifferenceCheck(predicted, measured, errors, rounding, float(np.max(errors)), float(step))


def _only(direction: Hyper, turn: int, turns: int) -> Hyper:
    """`direction` with all leaves still but those whose turn it is."""
    leaves, treedef = jax.tree.flatten(direction)
    return treedef.unflatten([leaf * (number % turns == turn) for number, leaf in enumerate(leaves)])


def _typical(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Root mean square, of whichever is larger."""
    return float(np.sqrt(max(np.mean(predicted**2), np.mean(measured**2))))
