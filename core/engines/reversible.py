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
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from core.engines.certificate import Certificate
from core.engines.inner import accumulators, inner_gradient, outer, pull_back, replace_leaves
from core.engines.problem import Hyper, Params, Problem
from core.engines.result import Hypergradient
from core.engines.training import Run
from core.errors import UncertifiedGradient
from core.reversal.information_buffer import Plan
from core.reversal.optimizers import Optimizer, State
from core.reversal.schedule import Schedule, hypers_of
from core.reversal.segments import Static, mismatched_bits, rewind
from core.reversal.trajectory import backward

_PROBE_STEPS = 4


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
        self,
        problem: Problem,
        hyper: Hyper,
        key: jax.Array,
        adjoint: Adjoint,
        step: jax.Array,
        params: Params,
    ) -> tuple[Params, Callable[..., Adjoint]]:
        """An `Observe` (see `core.reversal.segments`), once its first three arguments are bound."""
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
            treedef = jax.tree.structure(params)

            def update(state: State, gradient: Params, row: dict[str, jax.Array], weights: Any) -> State:
                hypers = hypers_of(row, weights, treedef)
                spread_hypers = {
                    name: jax.tree.map(lambda hyper, param: spread(hyper, param.shape, param.dtype), tree, params)
                    for name, tree in hypers.items()
                }
                return self.optimizer.update(state, gradient, spread_hypers)

            _, pull = jax.vjp(update, before, gradient, row, weights)
            d_before, d_gradient, d_row, d_weights = pull(adjoint.state)
            # barrier: without it XLA on CPU fuses the product into each of its consumers and recomputes it there
            direction = jax.lax.optimization_barrier(d_gradient)
            d_params, d_read = jax.lax.optimization_barrier(second_order(direction))
            d_before = d_before._replace(position=jax.tree.map(jnp.add, d_before.position, d_params))
            schedule = adjoint.schedule.add_row(step, d_row)
            return Adjoint(
                d_before,
                schedule._replace(weights=jax.tree.map(jnp.add, schedule.weights, d_weights)),
                jax.tree.map(jnp.add, adjoint.hyper, d_read),
            )

        return gradient, follow


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def spread(hyper: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """A hyperparameter for every weight of a group, in compute precision."""
    return jnp.broadcast_to(hyper.astype(dtype), shape)


def _spread_forward(hyper: jax.Array, shape: tuple[int, ...], dtype: Any) -> tuple[jax.Array, jax.Array]:
    return spread(hyper, shape, dtype), hyper


def _spread_backward(
    shape: tuple[int, ...], dtype: Any, hyper: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array]:
    if hyper.ndim:
        return (cotangent.astype(jnp.float64),)
    if cotangent.ndim > 1:
        # columns are summed by a product with ones: XLA on CPU takes three times as long for a plain sum of
        # products (145 against 45 microseconds for both sums of a 784 by 50 group)
        rows = cotangent.reshape(-1, cotangent.shape[-1])
        cotangent = jnp.ones(len(rows), rows.dtype) @ rows
    return (jnp.sum(cotangent, dtype=jnp.float64),)


spread.defvjp(_spread_forward, _spread_backward)


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
        mode = run.habits.mode or ("fused" if run.probe("fused") else "isolated")
        result = run.attempt(mode)
        if not result.certificate.exact and mode == "fused":
            result = run.attempt("isolated")
        if result.certificate.exact:
            run.habits.mode = result.certificate.mode
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


def working_memory(problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, key: jax.Array) -> int:
    """Bytes of device memory that running backward needs beyond its arguments and the gradient it returns.

    By XLA's own analysis of the compiled program: temporary buffers, state, information buffers and adjoint.
    """
    run = _Reverse(problem, hyper, optimizer, num_steps, key, lambda: None)
    adjoint = run._adjoint_at_rest()
    follow = Partial(FollowStep(optimizer, fused=True), problem, hyper, key)
    lowered = rewind.lower(
        optimizer, Static(run.dtypes), follow, run.schedule, run.initial(), adjoint, 0, num_steps, {}
    )
    analysis: Any = lowered.compile().memory_analysis()  # None on backends that do not analyse
    gradient = sum(leaf.nbytes for leaf in jax.tree.leaves((adjoint.schedule, adjoint.hyper)))
    return analysis.temp_size_in_bytes + analysis.alias_size_in_bytes - gradient


class _Reverse(Run):
    """A training run, taken forward and back in one mode or another."""

    def probe(self, mode: str) -> bool:
        """Whether a few steps come back exactly in this mode."""
        plan = self.plan(min(_PROBE_STEPS, self.num_steps))
        state, _, _ = self._there_and_back(plan, mode, lambda _: self._adjoint_at_rest())
        return mismatched_bits(state, self.initial()) == 0

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
        mismatched = mismatched_bits(state, self.initial())
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
        gradient = _collect(
            self.problem, self.hyper, self.key, self.optimizer, self.num_steps, adjoint, ended["d_hyper"]
        )
        return Hypergradient(ended["value"], gradient, ended["params"], certificate)

    def _there_and_back(
        self, plan: Plan, mode: str, adjoint_at: Callable[[Params], Adjoint]
    ) -> tuple[State, Adjoint, float]:
        trajectory = self.forward(plan)
        stored_bits = trajectory.stored_bits
        params = self.parameters(trajectory.state)
        follow = Partial(FollowStep(self.optimizer, mode == "fused"), self.problem, self.hyper, self.key)
        state, adjoint = backward(
            self.optimizer,
            follow,
            self.schedule,
            trajectory,
            adjoint_at(params),
            dtypes=self.dtypes,
            pace=self.habits.backward,
            interrupt=self.interrupt,
        )
        return state, adjoint, stored_bits

    def _adjoint_at_rest(self) -> Adjoint:
        return _adjoint_at_rest(
            self.optimizer, Static(self.shapes), self.problem, self.hyper, self.key, self.schedule
        )


@partial(jax.jit, static_argnames=("optimizer", "shapes"))
def _adjoint_at_rest(
    optimizer: Optimizer, shapes: Static, problem: Problem, hyper: Hyper, key: jax.Array, schedule: Schedule
) -> Adjoint:
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.tree)
    state = optimizer.init(zeros)._replace(buffers={})
    return Adjoint(state, jax.tree.map(jnp.zeros_like, schedule), accumulators(problem, zeros, hyper, key))


@partial(jax.jit, static_argnames=("optimizer", "num_steps"))
def _collect(
    problem: Problem,
    hyper: Hyper,
    key: jax.Array,
    optimizer: Optimizer,
    num_steps: int,
    adjoint: Adjoint,
    d_hyper: Hyper,
) -> Hyper:
    """The hypergradient: through the outer loss, the initial parameters and schedule, and every inner loss."""
    d_begin = pull_back(problem, hyper, key, optimizer, num_steps, adjoint.state.position, adjoint.schedule)
    gradient = jax.tree.map(jnp.add, d_hyper, d_begin)
    leaves = jax.tree.leaves(gradient)
    return replace_leaves(gradient, {index: leaves[index] + more for index, more in adjoint.hyper.items()})
