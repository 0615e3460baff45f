"""The implicit engine: the gradient at a minimum of the inner loss, however training got there.

Where ∇_w L(w*, θ) = 0, the minimum moves with θ by dw*/dθ = −H⁻¹ ∇²_wθ L, so that

    df/dθ = ∂f/∂θ − x · ∇²_wθ L ,    H x = ∇_w f
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import lineax

from core.engines.arguments import an_int
from core.engines.float_engine import FloatEngine, Outcome
from core.engines.floating import dynamics
from core.engines.problem import Hyper, Params, Problem
from core.errors import InvalidProblem, SolverFailed
from core.reversal.optimizers import Optimizer


@dataclass(frozen=True)
class Implicit(FloatEngine):
    """See `implicit`."""

    solver: Literal["cg", "neumann"]
    iterations: int
    damping: float
    step_size: float
    tolerance: float

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
        state, take = dynamics(problem, hyper, key, optimizer, num_steps)
        state, largest = jax.lax.scan(take, state, jnp.arange(num_steps))
        params, last = state.position, jnp.asarray(num_steps - 1)
        value, (d_params, d_hyper) = jax.value_and_grad(problem.outer_loss, argnums=(0, 1))(params, hyper, key)

        def inner_gradient(params: Params, hyper: Hyper) -> Params:
            return jax.grad(problem.inner_loss)(params, hyper, last, jax.random.fold_in(key, last))

        _, second_order = jax.linearize(lambda params: inner_gradient(params, hyper), params)

        def damped(direction: Params) -> Params:
            return jax.tree.map(lambda h, d: h + self.damping * d, second_order(direction), direction)

        solution = (self._cg if self.solver == "cg" else self._neumann)(damped, d_params)
        rest = jax.tree.map(jnp.subtract, damped(solution), d_params)
        (through_minimum,) = jax.vjp(lambda hyper: inner_gradient(params, hyper), hyper)[1](solution)
        gradient = jax.tree.map(jnp.subtract, d_hyper, through_minimum)
        return Outcome(value, gradient, params, largest, _norm(rest) / jnp.maximum(_norm(d_params), 1e-300))

    def check(self, outcome: Outcome) -> None:
        """Raise SolverFailed if the linear system was not solved."""
        residual = float(outcome.residual)
        if not residual <= self.tolerance:
            raise SolverFailed(self.solver, residual, self.tolerance)

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
) -> Implicit:
    """Engine that differentiates the minimum that training ends in, by the implicit function theorem.

    Args:
        solver: "cg", conjugate gradients (Pedregosa 2016); "neumann", a truncated series (Lorraine et al. 2020).
        iterations: at most so many of "cg"; exactly so many of "neumann".
        damping: added to the Hessian's diagonal; what it makes of a singular system is no longer the exact gradient.
        step_size: η of "neumann"; it converges if η is below 2 / the Hessian's largest eigenvalue.
        tolerance: largest relative residual of the system that passes; 1e-6 for "cg", 1 for "neumann", whose truncation
            is part of the method, unless given.

    Raises:
        InvalidProblem: an argument is out of range.
        SolverFailed: (from `hypergradient`) the system was not solved.
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
    return Implicit(solver, iterations, damping, step_size, tolerance)


def _norm(tree: Params) -> jax.Array:
    wide = [leaf.astype(jnp.float64) for leaf in jax.tree.leaves(tree)]  # squares of small floats would vanish
    return jnp.sqrt(sum((jnp.sum(jnp.square(leaf)) for leaf in wide), jnp.zeros(())))
