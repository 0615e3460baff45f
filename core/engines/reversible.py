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
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from core.engines.certificate import Certificate
from core.engines.engine import Engine, Memory
from core.engines.inner import accumulators, inner_gradient, outer, pull_back, replace_leaves
from core.engines.problem import Hyper, Params, Problem
from core.engines.result import Hypergradient
from core.engines.training import Run
from core.errors import InvalidProblem, UncertifiedGradient
from core.reversal.information_buffer import Plan
from core.reversal.moves import is_number
from core.reversal.optimizers import Optimizer, State
from core.reversal.schedule import Schedule, hypers_of
from core.reversal.seeds import Seeds
from core.reversal.segments import Static, copied, mismatched_bits, rewind, without_buffers
from core.reversal.stepping import rest
from core.reversal.stepping import step as take_step
from core.reversal.stores import DiskStore, HostStore, Store
from core.reversal.trajectory import Trajectory, backward, sizes_of

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
        adjoint: Adjoint,
        step: jax.Array,
        params: Params,
        key: jax.Array,
    ) -> tuple[Params, Callable[..., Adjoint]]:
        """An `Observe` (see `core.reversal.segments`), once its first two arguments are bound."""
        step_key = jax.random.fold_in(key, step)
        leaves = jax.tree.leaves(hyper)
        read = {index: leaves[index] for index in adjoint.hyper}

        def gradients(params: Params) -> tuple[Params, dict[int, jax.Array]]:
            def loss(params: Params, read: dict[int, jax.Array]) -> jax.Array:
                return problem.inner_loss(params, replace_leaves(hyper, read), step, step_key)

            return jax.grad(loss, argnums=(0, 1))(params, read)

        (gradient, _), second_order = jax.linearize(gradients, params)
        if not self.fused:
            gradient = inner_gradient(problem, hyper)(params, step, key)
        gradient = jax.lax.optimization_barrier(gradient)

        def follow(before: State, row: dict[str, jax.Array], weights: dict[str, Params]) -> Adjoint:
            treedef = jax.tree.structure(params)

            def update(state: State, gradient: Params, row: dict[str, jax.Array], weights: Any) -> State:
                hypers = hypers_of(row, weights, treedef)
                spread_hypers = {
                    name: jax.tree.map(lambda hyper, param: spread(hyper, param.shape, param.dtype), tree, params)
                    for name, tree in hypers.items()
                }
                return take_step(self.optimizer, state, gradient, spread_hypers)

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
        cotangent = jnp.matmul(jnp.ones(len(rows), rows.dtype), rows, precision="highest")
    return (jnp.sum(cotangent, dtype=jnp.float64),)


spread.defvjp(_spread_forward, _spread_backward)


@dataclass(frozen=True)
class Reversible:
    """See `reversible` and `hybrid`."""

    checkpoints: int
    interrupt: Callable[[], None]
    fallback: Engine | None
    spill_to: Path | None
    side_by_side: int

    @property
    def name(self) -> str:
        """As certificates call it."""
        return "reversible" if self.checkpoints == 1 else "hybrid"

    exact_for = (
        "every hyperparameter, whatever the length of training; only the rounding of the arithmetic is left"
    )

    complete = True

    def many(
        self, problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, keys: jax.Array
    ) -> list[Hypergradient]:
        """See `Engine`."""
        if keys.ndim == 0:
            return self._together(problem, hyper, optimizer, num_steps, keys)
        count = self.side_by_side * len(jax.local_devices())
        batches = [keys[start : start + count] for start in range(0, len(keys), count)]
        return [
            result
            for batch in batches
            for result in self._together(
                problem, hyper, optimizer, num_steps, batch[0] if len(batch) == 1 else batch
            )
        ]

    def memory(
        self, problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, key: jax.Array
    ) -> Memory:
        """See `Engine`."""
        return _Reverse(problem, hyper, optimizer, num_steps, key, self).memory()

    def shortened(self, num_steps: int, short: int) -> Engine:
        """See `Engine`."""
        return self

    def _together(
        self, problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, keys: jax.Array
    ) -> list[Hypergradient]:
        """Hypergradients of runs that all go at once."""
        run = _Reverse(problem, hyper, optimizer, num_steps, keys, self)
        mode = run.habits.mode or ("fused" if run.probe("fused") else "isolated")
        results = run.attempt(mode)
        if not results[0].certificate.exact and mode == "fused":
            results = run.attempt("isolated")
        certificate = results[0].certificate
        if certificate.exact:
            run.habits.mode = certificate.mode
            return results
        if self.fallback is not None:
            return self.fallback.many(problem, hyper, optimizer, num_steps, keys)
        raise UncertifiedGradient(
            f"running backward missed the start by {certificate.mismatched_bits} bits: the inner loss does not return "
            "the same bits for the same arguments; make it deterministic (no host state, no nondeterministic device "
            f"operations) or choose another engine. Or unstep of {optimizer.name} does not undo its step"
        )

    def store(self) -> Store:
        """Where a trajectory's bits go."""
        return HostStore() if self.spill_to is None else DiskStore(self.spill_to)


def reversible(
    *,
    interrupt: Callable[[], None] = lambda: None,
    fallback: Engine | None = None,
    spill_to: str | Path | None = None,
    side_by_side: int = 1,
) -> Reversible:
    """Engine that runs training backward, bit for bit.

    Args:
        interrupt: called between the pieces of a run, at least about once a second; what it raises ends the run.
        fallback: engine to use when neither way of computing the gradient could be certified; without one
            UncertifiedGradient is raised.
        spill_to: folder for the bits that buffers spill; they stay in host memory unless given. The file has no name
            and is gone with the run.
        side_by_side: of several keys, how many runs each device takes at a time, by `jax.vmap`. With 1 every run has
            the bits that it has alone, whatever the number of devices. More are faster where one run leaves the
            device idle (small models, GPUs); their gradients differ from those of runs alone in rounding.
    """
    return _engine(1, interrupt, fallback, spill_to, side_by_side)


def hybrid(
    *,
    checkpoints: int,
    interrupt: Callable[[], None] = lambda: None,
    fallback: Engine | None = None,
    spill_to: str | Path | None = None,
    side_by_side: int = 1,
) -> Reversible:
    """Engine that runs training backward between checkpoints, which bounds what buffers store at any time.

    Each stretch but the last is trained once more before it is undone: one gradient a step more than `reversible`.

    Args:
        checkpoints: number of stretches, each begun by a checkpoint with empty buffers; at least 1. Which number it is
            moves the trajectory by less than the state's resolution, as emptied buffers round otherwise.
        interrupt: as for `reversible`.
        fallback: as for `reversible`.
        spill_to: as for `reversible`; checkpoints go there too.
        side_by_side: as for `reversible`.
    """
    return _engine(checkpoints, interrupt, fallback, spill_to, side_by_side)


def _engine(
    checkpoints: int,
    interrupt: Callable[[], None],
    fallback: Engine | None,
    spill_to: str | Path | None,
    side_by_side: int,
) -> Reversible:
    for name, count in {"checkpoints": checkpoints, "side_by_side": side_by_side}.items():
        if count < 1:
            raise InvalidProblem(f"{name} is {count}; it must be at least 1")
    return Reversible(checkpoints, interrupt, fallback, _folder(spill_to), side_by_side)


def _folder(spill_to: str | Path | None) -> Path | None:
    if spill_to is None:
        return None
    if not Path(spill_to).is_dir():
        raise InvalidProblem(f"spill_to is {str(spill_to)!r}, which is no folder; make it first")
    return Path(spill_to)


class _Reverse(Run):
    """Training runs, taken forward and back in one mode or another."""

    def __init__(
        self,
        problem: Problem,
        hyper: Hyper,
        optimizer: Optimizer,
        num_steps: int,
        key: jax.Array,
        engine: Reversible,
    ) -> None:
        super().__init__(problem, hyper, optimizer, num_steps, key, engine.interrupt)
        self.engine = engine

    def probe(self, mode: str) -> bool:
        """Whether a few steps come back exactly in this mode."""
        bounds = [0, min(_PROBE_STEPS, self.num_steps)]
        back = self.in_range(lambda: _There(self, mode).and_back(bounds, lambda _: self.adjoint_at_rest()))
        return not any(back.mismatched.values())

    def attempt(self, mode: str) -> list[Hypergradient]:
        """The hypergradients in one mode, with their certificate, exact or not."""
        ended: dict[str, Any] = {}

        def outer_adjoint(params: Params) -> Adjoint:
            value, (d_params, d_hyper) = outer(self.problem, params, self.hyper, self.key, self.course.seeds)
            ended.update(value=value, params=params, d_hyper=d_hyper)
            rest = self.adjoint_at_rest()
            return rest._replace(state=rest.state._replace(position=d_params))

        stretches = min(self.engine.checkpoints, self.num_steps)
        bounds = [self.num_steps * number // stretches for number in range(stretches + 1)]
        back = self.in_range(lambda: _There(self, mode).and_back(bounds, outer_adjoint))
        if any(back.mismatched.values()):
            self.locate_overflow()
        certificate = self._certificate(mode, back)
        gradient = _collect(
            self.problem,
            self.hyper,
            self.key,
            self.optimizer,
            self.num_steps,
            back.adjoint,
            ended["d_hyper"],
            self.course.seeds,
        )
        each = self.course.seeds.each((ended["value"], gradient, ended["params"]))
        return [Hypergradient(value, gradient, params, certificate) for value, gradient, params in each]

    def _certificate(self, mode: str, back: _Back) -> Certificate:
        numbers = sum(sizes_of(self.shapes)) * (self.course.seeds.count or 1) * self.num_steps
        dtypes = sorted({jnp.dtype(leaf.dtype).name for leaf in jax.tree.leaves(self.shapes)})
        return Certificate(
            exact=not any(back.mismatched.values()),
            engine=self.engine.name,
            mode=mode,
            mismatched_bits=sum(back.mismatched.values()),
            mismatched_bits_by_field=back.mismatched,
            stored_bits_per_param_step=back.stored_bits / numbers,
            bound_bits_per_param_step=self.plan().bound_bits / numbers,
            unit_exponents={
                name: [int(np.max(column)) for column in columns] for name, columns in self.exponents.items()
            },
            runs=self.course.seeds.count or 1,
            exact_for=self.engine.exact_for,
            optimizer=self.optimizer.name,
            compute=", ".join(dtypes)
            + f"; matrix products: {jax.config.jax_default_matmul_precision or 'default'}",  # type: ignore[attr-defined]
        )

    def adjoint_at_rest(self) -> Adjoint:
        """Zero cotangents."""
        key = self.key if self.key.ndim == 0 else self.key[0]
        return _adjoint_at_rest(
            self.optimizer,
            Static(self.shapes),
            self.problem,
            self.hyper,
            key,
            self.course.schedule,
            self.course.seeds,
        )

    def rewinding_bytes(self, adjoint: Adjoint) -> int:
        """Of the state, the adjoint and what the program that runs backward needs beside them."""
        lowered = rewind.lower(
            self.optimizer,
            Static(self.course.dtypes),
            Partial(FollowStep(self.optimizer, fused=True), self.problem, self.hyper),
            self.course.schedule,
            self.key,
            self.initial(),
            adjoint,
            {},
            0,
            self.num_steps,
            0,
            seeds=self.course.seeds,
        )
        analysis: Any = lowered.compile().memory_analysis()  # None on backends that do not analyse
        return int(analysis.temp_size_in_bytes + analysis.alias_size_in_bytes)

    def memory(self) -> Memory:
        """See `Engine`."""
        adjoint, state = self.adjoint_at_rest(), _bytes(self.initial())
        kept = _bytes((self.course.schedule, self.shapes)) + _bytes(self.hyper)
        stretches = min(self.engine.checkpoints, self.num_steps)
        bounds = [self.num_steps * number // stretches for number in range(stretches + 1)]
        plans = [self.plan(start, stop) for start, stop in pairwise(bounds)]
        began = state if stretches > 1 else 0  # what a stretch began with is compared with what comes back
        comparing = 2 * state + _bytes(adjoint)
        device = kept + max(self.rewinding_bytes(adjoint) + began, comparing)
        host = max(plan.spilled_bytes for plan in plans) + (stretches - 1) * state
        return Memory(device, 0 if self.engine.spill_to is not None else host)


class _Back(NamedTuple):
    """What running backward to the start leaves."""

    adjoint: Adjoint
    mismatched: dict[str, int]  # bits, by field
    stored_bits: float  # at most at any time


class _There:
    """A training run in one mode, in stretches between checkpoints."""

    def __init__(self, run: _Reverse, mode: str) -> None:
        self.run = run
        self.observe = Partial(FollowStep(run.optimizer, mode == "fused"), run.problem, run.hyper)

    def and_back(self, bounds: list[int], adjoint_at: Callable[[Params], Adjoint]) -> _Back:
        """Train from bounds[0] to bounds[-1] and undo it, stretch by stretch.

        Args:
            bounds: steps at which stretches begin, and the last one's end.
            adjoint_at: final parameters → cotangents to carry backward.
        """
        run = self.run
        plans = [run.plan(start, stop) for start, stop in pairwise(bounds)]
        if len(plans) == 1:
            trajectory = run.forward(plans[0], run.initial(), run.engine.store())
            stored_bits = trajectory.stored_bits
            adjoint = adjoint_at(run.parameters(trajectory.state))
            state, adjoint, missed = self._undo(trajectory, adjoint)
            return _Back(adjoint, _sum(mismatched_bits(state, run.initial()), missed), stored_bits)
        return self._through_checkpoints(plans, adjoint_at)

    def _through_checkpoints(self, plans: list[Plan], adjoint_at: Callable[[Params], Adjoint]) -> _Back:
        run, checkpoints = self.run, self.run.engine.store()
        mismatched: list[dict[str, int]] = []

        def there_and_back(plan: Plan, began: State, adjoint_at: Callable[[Trajectory], Adjoint]) -> _Back:
            trajectory = run.forward(plan, copied(began), run.engine.store())
            stored_bits, adjoint = trajectory.stored_bits, adjoint_at(trajectory)
            state, adjoint, missed = self._undo(trajectory, adjoint)
            mismatched.extend((mismatched_bits(state, began), missed))
            return _Back(adjoint, {}, stored_bits)

        try:
            state = run.forward_only(plans[:-1], checkpoints.push)
            back = there_and_back(plans[-1], state, lambda ended: adjoint_at(run.parameters(ended.state)))
            most = back.stored_bits
            for plan in reversed(plans[:-1]):
                began, adjoint = self._checkpoint(checkpoints, state), back.adjoint

                def arrives(ended: Trajectory, state: State = state, adjoint: Adjoint = adjoint) -> Adjoint:
                    mismatched.append(mismatched_bits(without_buffers(copied(ended.state)), state))
                    return adjoint

                back = there_and_back(plan, began, arrives)
                most, state = max(most, back.stored_bits), began
            return back._replace(mismatched=_sum(*mismatched), stored_bits=most + checkpoints.bits)
        finally:
            checkpoints.close()

    def _undo(self, trajectory: Trajectory, adjoint: Adjoint) -> tuple[State, Adjoint, dict[str, int]]:
        try:
            return backward(
                self.run.course,
                self.observe,
                trajectory,
                adjoint,
                conduct=self.run.conduct(self.run.habits.backward),
            )
        finally:
            trajectory.store.close()

    def _checkpoint(self, checkpoints: Store, like: State) -> State:
        """The checkpoint pushed last, with empty buffers."""
        numbers, treedef = jax.tree.flatten(like, is_leaf=is_number)
        popped = [jnp.asarray(checkpoints.pop()) for _ in numbers]
        restored = [
            number._replace(integers=integers) for number, integers in zip(numbers, reversed(popped), strict=True)
        ]
        return without_buffers(copied(treedef.unflatten(restored)))


def _sum(*counts: dict[str, int]) -> dict[str, int]:
    return {name: sum(one.get(name, 0) for one in counts) for count in counts for name in count}


def working_memory(problem: Problem, hyper: Hyper, optimizer: Optimizer, num_steps: int, key: jax.Array) -> int:
    """Bytes of device memory that running backward needs beyond its arguments and the gradient it returns.

    By XLA's own analysis of the compiled program: temporary buffers, state, information buffers and adjoint.
    """
    run = _Reverse(problem, hyper, optimizer, num_steps, key, reversible())
    adjoint = run.adjoint_at_rest()
    return run.rewinding_bytes(adjoint) - _bytes((adjoint.schedule, adjoint.hyper))


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@partial(jax.jit, static_argnames=("optimizer", "shapes", "seeds"))
def _adjoint_at_rest(
    optimizer: Optimizer,
    shapes: Static,
    problem: Problem,
    hyper: Hyper,
    key: jax.Array,
    schedule: Schedule,
    seeds: Seeds,
) -> Adjoint:
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.tree)
    state = jax.tree.map(jnp.zeros_like, rest(optimizer, zeros))
    adjoint = Adjoint(state, jax.tree.map(jnp.zeros_like, schedule), accumulators(problem, zeros, hyper, key))
    if seeds.count is None:
        return adjoint
    return jax.tree.map(lambda leaf: jnp.zeros((seeds.count, *leaf.shape), leaf.dtype), adjoint)


@partial(jax.jit, static_argnames=("optimizer", "num_steps", "seeds"))
def _collect(
    problem: Problem,
    hyper: Hyper,
    key: jax.Array,
    optimizer: Optimizer,
    num_steps: int,
    adjoint: Adjoint,
    d_hyper: Hyper,
    seeds: Seeds,
) -> Hyper:
    """The hypergradient: through the outer loss, the initial parameters and schedule, and every inner loss."""
    d_begin = pull_back(problem, hyper, key, optimizer, num_steps, adjoint.state.position, adjoint.schedule, seeds)
    gradient = jax.tree.map(jnp.add, d_hyper, d_begin)
    leaves = jax.tree.leaves(gradient)
    return replace_leaves(gradient, {index: leaves[index] + more for index, more in adjoint.hyper.items()})
