"""The implicit engine: the gradient at a minimum of the inner loss, however training got there.

Where ∇_w L(w*, θ) = 0, the minimum moves with θ by dw*/dθ = −H⁻¹ ∇²_wθ L, so that

    df/dθ = ∂f/∂θ − x · ∇²_wθ L ,    H x = ∇_w f
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import lineax

from core.engines.arguments import an_int
from core.engines.engine import Engine
from core.engines.float_engine import FloatEngine, Outcome
from core.engines.floating import dynamics
from core.engines.problem import Hyper, Params, Problem
from core.errors import InvalidProblem, SolverFailed
from core.reversal.optimizers import Optimizer

_TINY = 1e-300  # a divisor where what is divided is 0, too


class Evidence(NamedTuple):
    """For a strict minimum, and a solved system. Curvatures are those of the damped loss."""

    residual: jax.Array  # of the linear system, relative
    curvature: jax.Array  # along its solution x, xᵀHx / xᵀx; infinite where that is 0
    distance: jax.Array  # of the minimum, at least, relative to the weights


@dataclass(frozen=True)
class Implicit(FloatEngine):
    """See `implicit`."""

    solver: Literal["cg", "neumann"]
    iterations: int
    damping: float
    step_size: float
    tolerance: float
    farthest: float

    name = "implicit"
    exact_for = (
        "hyperparameters of the inner and outer loss, where training has come to a minimum of the last step's inner "
        "loss; for those of initial weights and schedule it is zero"
    )
    complete = False

    def differentiate(
        self, problem: Problem, hyper: Hyper, key: jax.Array, optimizer: Optimizer, num_steps: int
    ) -> Outcome:
        """See `FloatEngine`."""
        start, take = dynamics(problem, hyper, key, optimizer, num_steps)
        state, largest = jax.lax.scan(take, start, jnp.arange(num_steps))
        params, last = state.position, jnp.asarray(num_steps - 1)
        value, (d_params, d_hyper) = jax.value_and_grad(problem.outer_loss, argnums=(0, 1))(params, hyper, key)

        def inner_gradient(params: Params, hyper: Hyper) -> Params:
            return jax.grad(problem.inner_loss)(params, hyper, last, jax.random.fold_in(key, last))

        left, second_order = jax.linearize(lambda params: inner_gradient(params, hyper), params)

        def damped(direction: Params) -> Params:
            return jax.tree.map(lambda h, d: h + self.damping * d, second_order(direction), direction)

        solution = (self._cg if self.solver == "cg" else self._neumann)(damped, d_params)
        rest = jax.tree.map(jnp.subtract, damped(solution), d_params)
        (through_minimum,) = jax.vjp(lambda hyper: inner_gradient(params, hyper), hyper)[1](solution)
        gradient = jax.tree.map(jnp.subtract, d_hyper, through_minimum)
        evidence = Evidence(
            residual=_norm(rest) / jnp.maximum(_norm(d_params), _TINY),
            curvature=_curvature(damped, solution),
            distance=_distance(damped, left, inner_gradient(start.position, hyper), params, start.position),
        )
        return Outcome(value, gradient, params, largest, evidence)

    def check(self, outcome: Outcome) -> None:
        """Raise SolverFailed if the linear system was not solved, or training ended in no minimum."""
        residual, curvature, distance = map(float, outcome.evidence)
        if not residual <= self.tolerance:
            raise SolverFailed(
                f"{self.solver} left a relative residual of {residual:.3g}, above the tolerance {self.tolerance:.3g}: "
                "the inner loss may not be at a strict minimum; train for more steps, raise iterations or damping, or "
                "lower step_size"
            )
        if not curvature > 0:
            raise SolverFailed(
                f"training ended in no strict minimum of the inner loss, whose curvature there is {curvature:.3g} in a "
                "direction that the gradient depends on; start elsewhere or train for more steps, or raise damping"
            )
        if not distance <= self.farthest:
            away = f"it is {distance:.3g} of the weights' norm away or more, above farthest, {self.farthest:.3g}"
            raise SolverFailed(
                "training has not come to a minimum of the inner loss: along the gradient that is left, "
                f"{away if math.isfinite(distance) else 'the loss does not curve upward'}; train for more steps, or "
                "raise farthest if so rough a hypergradient will do"
            )

    def shortened(self, num_steps: int, short: int) -> Engine:
        """See `Engine`. What is cut short need not come to a minimum."""
        return replace(self, farthest=math.inf)

    def _cg(self, matrix: Any, right: Params) -> Params:
        """For ∇_w f of norm one: lineax's test is of each component, and a relative one never passes where it is 0.

        In float64, since lineax gives up on eigenvalues below 100 n times the precision of the vectors.
        """
        norm = _norm(right)
        scale = jnp.where(norm > 0, norm, 1.0)
        unit = jax.tree.map(lambda leaf: leaf.astype(jnp.float64) / scale, right)

        def narrow(tree: Params) -> Params:
            return jax.tree.map(lambda wide, leaf: wide.astype(leaf.dtype), tree, right)

        def wide(direction: Params) -> Params:
            return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), matrix(narrow(direction)))

        like = jax.eval_shape(lambda: unit)
        operator = lineax.FunctionLinearOperator(wide, like, lineax.positive_semidefinite_tag)
        size = sum(leaf.size for leaf in jax.tree.leaves(like))
        solver = lineax.CG(rtol=0.0, atol=0.1 * self.tolerance / math.sqrt(size), max_steps=self.iterations)
        solution = lineax.linear_solve(operator, unit, solver, throw=False).value
        return narrow(jax.tree.map(lambda leaf: leaf * scale, solution))

    def _neumann(self, matrix: Any, right: Params) -> Params:
        """η Σ (I − ηH)^j ∇_w f, which is gradient descent on the system from zero."""

        def descend(_: Any, solution: Params) -> Params:
            return jax.tree.map(lambda x, h, b: x - self.step_size * (h - b), solution, matrix(solution), right)

        return jax.lax.fori_loop(0, self.iterations, descend, jax.tree.map(jnp.zeros_like, right))


def implicit(
    solver: Literal["cg", "neumann"] = "cg",
    *,
    iterations: int = 200,
    damping: float = 0.0,
    step_size: float = 0.1,
    tolerance: float | None = None,
    farthest: float = 0.02,
) -> Implicit:
    """Engine that differentiates the minimum that training ends in, by the implicit function theorem.

    It refuses what is shown to be no minimum by a gradient that is left, or by the curvature along it and along the
    solution of the system. That is evidence and no proof: a saddle that curves upward along both passes.

    Args:
        solver: "cg", conjugate gradients (Pedregosa 2016); "neumann", a truncated series (Lorraine et al. 2020).
        iterations: at most so many of "cg"; exactly so many of "neumann".
        damping: added to the Hessian's diagonal; what it makes of a singular system is no longer the exact gradient.
        step_size: η of "neumann"; it converges if η is below 2 / the Hessian's largest eigenvalue.
        tolerance: largest relative residual of the system that passes; 1e-6 for "cg", 1 for "neumann", whose truncation
            is part of the method, unless given.
        farthest: largest distance of the minimum that passes, relative to the norm of the weights at the start or end
            of training, whichever is larger. It is taken to be the gradient's norm over the curvature along it, which
            no Newton step is shorter than, and to be 0 where only rounding is left of the gradient at the start.

    Raises:
        InvalidProblem: an argument is out of range.
        SolverFailed: (from `hypergradient`) training did not come to a strict minimum, or the system was not solved.
    """
    if solver not in ("cg", "neumann"):
        raise InvalidProblem(f"solver is {solver!r}; it must be 'cg' or 'neumann'")
    iterations = an_int("iterations", iterations)
    if not 0 <= damping < math.inf:
        raise InvalidProblem(f"damping is {damping}; it must be finite and at least 0")
    tolerance = {"cg": 1e-6, "neumann": 1.0}[solver] if tolerance is None else tolerance
    for name, value in {"step_size": step_size, "tolerance": tolerance}.items():
        if not 0 < value < math.inf:
            raise InvalidProblem(f"{name} is {value}; it must be finite and positive")
    if not farthest > 0:
        raise InvalidProblem(f"farthest is {farthest}; it must be positive")
    return Implicit(solver, iterations, damping, step_size, tolerance, farthest)


def _curvature(matrix: Any, direction: Params) -> jax.Array:
    """dᵀHd / dᵀd; infinite where d is 0."""
    square = _dot(direction, direction)
    return jnp.where(square > 0, _dot(direction, matrix(direction)) / jnp.maximum(square, _TINY), jnp.inf)


def _distance(matrix: Any, left: Params, at_first: Params, end: Params, start: Params) -> jax.Array:
    """Of the minimum from the end of training, at least, relative to weights.

    Args:
        matrix: the damped Hessian there.
        left: the gradient there.
        at_first: the gradient that training began with.
        end: weights there.
        start: initial weights.
    """
    curvature = _curvature(matrix, left)
    distance = jnp.where(curvature > 0, _norm(left) / curvature, jnp.inf)
    rounding = math.sqrt(max(jnp.finfo(leaf.dtype).eps for leaf in jax.tree.leaves(left)))
    gone = _norm(left) <= rounding * _norm(at_first)
    return jnp.where(gone, 0.0, distance / jnp.maximum(jnp.maximum(_norm(end), _norm(start)), _TINY))


def _norm(tree: Params) -> jax.Array:
    return jnp.sqrt(_dot(tree, tree))


def _dot(one: Params, other: Params) -> jax.Array:
    """In float64: squares of small floats would vanish."""
    products = jax.tree.map(lambda a, b: jnp.sum(a.astype(jnp.float64) * b.astype(jnp.float64)), one, other)
    return sum(jax.tree.leaves(products), jnp.zeros(()))
