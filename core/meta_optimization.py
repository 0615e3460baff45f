"""The outer loop: hypergradient → meta-optimizer (optax) → record."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from core.engines import Engine, Hypergradient, Problem, hypergradient, sgd
from core.engines.arguments import finite_floats
from core.errors import UNTRAINABLE
from core.reversal.optimizers import Optimizer


class MetaState(NamedTuple):
    """All that the outer loop carries from one meta-iteration to the next."""

    iteration: int
    hyper: Any
    optimizer_state: Any
    best_iteration: int | None
    best_value: float | None
    first_norm: float | None
    stopped: bool = False


class Scanned(NamedTuple):
    """Where a scan stands."""

    value: float  # unconstrained, of all entries of the scanned hyperparameter
    derivative: float | None  # of the outer loss by it; None where training diverged


class MetaIteration(NamedTuple):
    """One meta-iteration. `result` belongs to `hyper`, before the update; `state` is after it."""

    iteration: int
    hyper: Any
    result: Hypergradient | None  # None where training diverged
    hypergradient_norm: float
    seconds: float
    is_best: bool
    state: MetaState
    scanned: Scanned | None = None
    looked: dict[str, Any] | None = None  # what the safeguard found, as JSON values, where it looked


Look = Callable[[MetaState, bool], tuple[MetaState, dict[str, Any] | None]]


def initial_state(hyper: Any, meta_optimizer: optax.GradientTransformation) -> MetaState:
    """State before the first meta-iteration."""
    hyper = finite_floats(hyper)
    return MetaState(0, hyper, meta_optimizer.init(hyper), None, None, None)


def meta_optimize(
    problem: Problem | Callable[[int], Problem],
    hyper: Any,
    *,
    num_steps: int,
    num_iterations: int,
    keys: jax.Array | Callable[[int], jax.Array],
    optimizer: Optimizer | None = None,
    meta_optimizer: optax.GradientTransformation | None = None,
    engine: Engine | None = None,
    norm_may_grow: float | None = None,
    look: Look | None = None,
    resume_from: MetaState | None = None,
) -> Iterator[MetaIteration]:
    """Descend on the outer loss, yielding every meta-iteration. Deterministic in its arguments.

    Args:
        problem: as for `hypergradient`, or a function from the meta-iteration's number: fresh data.
        hyper, num_steps, optimizer, engine: as for `hypergradient`; `optimizer` is `sgd()` unless told.
        num_iterations: how many meta-iterations in all, those before `resume_from` included.
        keys: key or keys of every meta-iteration, or a function from its number: fresh seeds.
        meta_optimizer: any optax transformation; Adam with step 0.04 unless told otherwise.
        norm_may_grow: stop once the hypergradient's norm exceeds this many times that of meta-iteration 0, which
            is how chaos announces itself.
        look: called after every meta-iteration with the state and whether training diverged; returns the state to go on
            from, and what it found, if it did look. With it, a training that diverges ends nothing: it is asked what to
            do.
        resume_from: `state` of an earlier meta-iteration; takes the place of `hyper`.

    Raises:
        NotFinite, FixedPointOverflow, UncertifiedGradient, InvalidProblem, X64Disabled: as for `hypergradient`.
    """
    optimizer = sgd() if optimizer is None else optimizer
    meta_optimizer = optax.adam(0.04) if meta_optimizer is None else meta_optimizer
    state = resume_from or initial_state(hyper, meta_optimizer)
    while state.iteration < num_iterations and not state.stopped:
        began = time.perf_counter()
        key = keys(state.iteration) if callable(keys) else keys
        posed = problem if isinstance(problem, Problem) else problem(state.iteration)
        result: Hypergradient | None = None
        norm = value = math.nan
        try:
            result = hypergradient(
                posed, state.hyper, optimizer=optimizer, num_steps=num_steps, key=key, engine=engine
            )
        except UNTRAINABLE:
            if look is None:
                raise
        after = state._replace(iteration=state.iteration + 1)
        is_best = False
        if result is not None:
            # in the precision that `hypergradient` took it in
            norm, value = (
                float(optax.tree.norm(optax.tree.cast(result.gradient, jnp.float64))),
                float(result.value),
            )
            is_best = state.best_value is None or value < state.best_value
            after = _updated(state, meta_optimizer, result, norm, value, is_best)
            if norm_may_grow is not None and norm > norm_may_grow * (after.first_norm or norm):
                after = after._replace(hyper=state.hyper, stopped=True)  # the update is not to be trusted
        found = None
        if look is not None:
            after, found = look(after, result is None)
        seconds = time.perf_counter() - began
        yield MetaIteration(state.iteration, state.hyper, result, norm, seconds, is_best, after, looked=found)
        state = after


def _updated(
    state: MetaState,
    meta_optimizer: optax.GradientTransformation,
    result: Hypergradient,
    norm: float,
    value: float,
    is_best: bool,
) -> MetaState:
    updates, optimizer_state = meta_optimizer.update(result.gradient, state.optimizer_state, state.hyper)
    return MetaState(
        iteration=state.iteration + 1,
        hyper=optax.apply_updates(state.hyper, updates),
        optimizer_state=optimizer_state,
        best_iteration=state.iteration if is_best else state.best_iteration,
        best_value=value if is_best else state.best_value,
        first_norm=norm if state.first_norm is None else state.first_norm,
    )
