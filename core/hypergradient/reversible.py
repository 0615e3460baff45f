"""The reversible engine: training is run backward exactly, so its memory does not grow with the number of steps.

Reverse pass, for t = T−1 … 0, with adjoint λ of the state s = (w, v, …) and update s' = Φ(s, g, h):

    undo the step exactly, recovering s_t and g_t
    (λ, u, d_h) = vjp of Φ at (s_t, g_t, h_t) applied to λ
    λ_w += ∇²_ww L · u ;  dθ += ∇²_θw L · u

Both second-order products are one forward-over-reverse product: the derivative of w ↦ ∇_{w,θ} L in direction u.
Exact for every reversible optimizer: no truncation, no approximation, only the rounding of the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from core.errors import UncertifiedGradient
from core.hypergradient.certificate import Certificate
from core.hypergradient.inner import accumulators, inner_gradient, outer, pull_back, replace_leaves
from core.hypergradient.problem import Hyper, Params, Problem
from core.hypergradient.result import Hypergradient
from core.hypergradient.training import Run
from core.reversible.information_buffer import Plan
from core.reversible.optimizers import Optimizer, State
from core.reversible.schedule import Schedule, hypers_of
from core.reversible.trajectory import as_real, backward, mismatched_bits

_PROBE_STEPS = 4

_modes: dict[Any, str] = {}
"""Mode that worked last for a program on a device: `fused` or `isolated`. A hint only; every run is verified."""


class Adjoint(NamedTuple):
    """Carried backward: the derivative of the outer loss with respect to everything upstream."""

    state: State  # λ, in compute precision
    schedule: Schedule
    hyper: dict[int, jax.Array]  # leaves of hyper that the inner loss reads, by index


@dataclass(frozen=True)
class FollowStep:
    """Carries the adjoint over one undone step.

    `fused` takes the gradient from the linearization that the second-order product needs anyhow; otherwise the
    gradient is computed once more, isolated from it. Which of them repeats the forward bits is for a probe to say.
    """

    optimizer: Optimizer
    fused: bool

    def __call__(
        self, problem: Problem, hyper: Hyper, key: jax.Array, adjoint: Adjoint, step: jax.Array, params: Params
    ) -> tuple[Params, Callable[..., Adjoint]]:
        """An `Observe` (see `core.reversible.trajectory`), once its first three arguments are bound."""
        step_key = jax.random.fold_in(key, step)
        leaves = jax.tree.leaves(hyper)
        read = {index: leaves[index] for index in adjoint.hyper}

        def gradients(params: Params) -> tuple[Params, dict[int, jax.Array]]:
            def loss(params: Params, read: dict[int, jax.Array]) -> jax.Array:
                return problem.inner_loss(params, replace_leaves(hyper, read), step, step_key)

            return jax.grad(loss, argnums=(0, 1))(params, read)

        (gradient, _), second_order = jax.linearize(gradients, params)
        if not self.fused:
            gradient = inner_gradient(problem, hyper, key)(params, step)
        gradient = jax.lax.optimization_barrier(gradient)

        def follow(before: State, row: dict[str, jax.Array], weights: dict[str, Params]) -> Adjoint:
            def update(state: State, gradient: Params, row: dict[str, jax.Array], weights: Any) -> State:
                return self.optimizer.update(state, gradient, hypers_of(row, weights, jax.tree.structure(params)))

            _, pull = jax.vjp(update, before, _double(gradient), row, weights)
            d_before, d_gradient, d_row, d_weights = pull(_double(adjoint.state))
            direction = jax.lax.optimization_barrier(jax.tree.map(_like, d_gradient, params))
            # barrier: without it XLA on CPU fuses the product into each of its consumers and recomputes it there
            d_params, d_read = jax.lax.optimization_barrier(second_order(direction))
            d_before = d_before._replace(position=jax.tree.map(jnp.add, d_before.position, d_params))
            schedule = adjoint.schedule.add_row(step, d_row)
            return Adjoint(
                jax.tree.map(_like, d_before, adjoint.state),
                schedule._replace(weights=jax.tree.map(jnp.add, schedule.weights, d_weights)),
                jax.tree.map(jnp.add, adjoint.hyper, d_read),
            )

        return gradient, follow


def _double(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)


def _like(value: jax.Array, other: jax.Array) -> jax.Array:
    return value.astype(other.dtype)


@dataclass(frozen=True)
class Reversible:
    """See `reversible`."""

    interrupt: Callable[[], None]
    fallback: Callable[..., Hypergradient] | None

    def __call__(
        self, problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, key: jax.Array
    ) -> Hypergradient:
        """Hypergradient of one training run."""
        run = _Reverse(problem, hyper, optimizer, num_steps, key, self.interrupt)
        known = _modes.get(run.program)
        modes = [known] if known else ["fused" if run.probe("fused") else "isolated"]
        result = run.attempt(modes[0])
        if not result.certificate.exact and modes[0] == "fused":
            result = run.attempt("isolated")
        if result.certificate.exact:
            _modes[run.program] = result.certificate.mode
            return result
        if self.fallback is not None:
            return self.fallback(problem, hyper, optimizer, num_steps, key)
        raise UncertifiedGradient(
            f"running backward missed the start by {result.certificate.mismatched_bits} bits: the inner loss does "
            "not return the same bits for the same arguments; make it deterministic (no host state, no "
            "nondeterministic device operations) or choose another engine"
        )


def reversible(
    *, interrupt: Callable[[], None] = lambda: None, fallback: Callable[..., Hypergradient] | None = None
) -> Reversible:
    """Engine that runs training backward, bit for bit.

    Args:
        interrupt: called between the pieces of a run, at least about once a second; what it raises ends the run.
        fallback: engine to use when neither way of computing the gradient could be certified; without one
            UncertifiedGradient is raised.
    """
    return Reversible(interrupt, fallback)


class _Reverse(Run):
    """A training run, taken forward and back in one mode or another."""

    @property
    def program(self) -> Any:
        """What decides the compiled programs, and so which mode works."""
        arguments = (self.shapes, self.hyper, self.problem)
        avals = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(arguments))
        return self.optimizer, jax.tree.structure(arguments), avals, jax.default_backend()

    def probe(self, mode: str) -> bool:
        """Whether a few steps come back exactly in this mode."""
        plan = self.plan(min(_PROBE_STEPS, self.num_steps))
        state, _, _ = self._there_and_back(plan, mode, lambda _: self._adjoint_at_rest())
        return mismatched_bits(state, self.initial) == 0

    def attempt(self, mode: str) -> Hypergradient:
        """The hypergradient in one mode, with its certificate, exact or not."""
        ended: dict[str, Any] = {}

        def outer_adjoint(params: Params) -> Adjoint:
            value, (d_params, d_hyper) = outer(self.problem, params, self.hyper, self.key)
            ended.update(value=value, params=params, d_hyper=d_hyper)
            rest = self._adjoint_at_rest()
            return rest._replace(state=rest.state._replace(position=d_params))

        plan = self.plan()
        state, adjoint, stored_bits = self._there_and_back(plan, mode, outer_adjoint)
        mismatched = mismatched_bits(state, self.initial)
        if mismatched:
            self.locate_overflow()
        size = sum(leaf.size for leaf in jax.tree.leaves(self.shapes)) * self.num_steps
        certificate = Certificate(
            exact=mismatched == 0,
            engine="reversible",
            mode=mode,
            mismatched_bits=mismatched,
            stored_bits_per_param_step=stored_bits / size,
            bound_bits_per_param_step=plan.bound_bits / size,
        )
        d_begin = pull_back(
            self.problem, self.hyper, self.key, self.optimizer, self.num_steps, adjoint.state.position, adjoint.schedule
        )
        gradient = jax.tree.map(jnp.add, ended["d_hyper"], d_begin)
        leaves = jax.tree.leaves(gradient)
        gradient = replace_leaves(gradient, {index: leaves[index] + d for index, d in adjoint.hyper.items()})
        return Hypergradient(ended["value"], gradient, ended["params"], certificate)

    def _there_and_back(
        self, plan: Plan, mode: str, adjoint_at: Callable[[Params], Adjoint]
    ) -> tuple[State, Adjoint, float]:
        trajectory = self.forward(plan)
        stored_bits = trajectory.stored_bits
        params = as_real(trajectory.state.position, self.dtypes)
        follow = Partial(FollowStep(self.optimizer, mode == "fused"), self.problem, self.hyper, self.key)
        state, adjoint = backward(
            self.optimizer, follow, self.schedule, trajectory, adjoint_at(params), dtypes=self.dtypes,
            interrupt=self.interrupt,
        )
        return state, adjoint, stored_bits

    def _adjoint_at_rest(self) -> Adjoint:
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.shapes)
        state = self.optimizer.init(zeros)._replace(buffers={})
        schedule = jax.tree.map(jnp.zeros_like, self.schedule)
        return Adjoint(state, schedule, accumulators(self.problem, zeros, self.hyper, self.key))
