"""The outer loop: hypergradient → meta-optimizer (optax) → record."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from numbers import Real
from reprlib import repr as short
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from core.callables import check_callable
from core.engines import Engine, Hypergradient, Problem, hypergradient, sgd
from core.engines.arguments import an_int, finite_floats
from core.errors import UNTRAINABLE, InvalidProblem
from core.reversal.optimizers import Optimizer


class MetaState(NamedTuple):
    """All that the outer loop carries from one meta-iteration to the next.

    Attributes:
        iteration: number of the next meta-iteration.
        hyper: hyperparameters that it has.
        optimizer_state: of the meta-optimizer.
        best_iteration: number of the one with the lowest outer loss so far; None before the first.
        best_value: that outer loss.
        first_norm: of the hypergradient in meta-iteration 0, which `norm_may_grow` is measured by.
        stopped: whether the norm has grown too large; no meta-iteration follows.
    """

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
    """One meta-iteration.

    Attributes:
        iteration: its number, from 0.
        hyper: hyperparameters before its update, which all but `state` belongs to.
        result: of `hypergradient`; None where training diverged.
        hypergradient_norm: over all of `hyper`, in float64; nan where training diverged.
        seconds: that it took, by the wall clock.
        is_best: whether its outer loss is lower than that of all before it.
        state: after the update; what `resume_from` takes.
        scanned: where the scan stands, of a scan.
        looked: what `look` found, where it looked.
    """

    iteration: int
    hyper: Any
    result: Hypergradient | None
    hypergradient_norm: float
    seconds: float
    is_best: bool
    state: MetaState
    scanned: Scanned | None = None
    looked: dict[str, Any] | None = None


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
        num_iterations: how many meta-iterations in all, at least 1, those before `resume_from` included.
        keys: key or keys of every meta-iteration, or a function from its number: fresh seeds.
        meta_optimizer: any optax transformation; Adam with step 0.04 unless told otherwise.
        norm_may_grow: stop once the hypergradient's norm exceeds this many times that of meta-iteration 0, which
            is how chaos announces itself; above 0.
        look: called after every meta-iteration with the state and whether training diverged; returns the state to go on
            from, and what it found, if it did look. With it, a training that diverges ends nothing: it is asked what to
            do.
        resume_from: `state` of an earlier meta-iteration; takes the place of `hyper`, which may be None then.

    Raises:
        InvalidProblem: at once, an argument of these that is none; the message names it.
        Others: from the iterator, as for `hypergradient`.
    """
    for name, given in {"problem": problem, "keys": keys}.items():
        if callable(given):
            check_callable(name, given, ("iteration",), InvalidProblem)
    if look is not None:
        check_callable("look", look, ("state", "diverged"), InvalidProblem)
    meta_optimizer = _transformation(optax.adam(0.04) if meta_optimizer is None else meta_optimizer)
    if norm_may_grow is not None and not _is_positive(norm_may_grow):
        raise InvalidProblem(f"norm_may_grow is {norm_may_grow!r}; give a number above 0, or None")
    if resume_from is None:
        state = initial_state(hyper, meta_optimizer)
    else:
        state = _resumed(resume_from, hyper, meta_optimizer)
    return _descend(
        problem,
        state,
        num_steps=num_steps,
        num_iterations=an_int("num_iterations", num_iterations),
        keys=keys,
        optimizer=sgd() if optimizer is None else optimizer,
        meta_optimizer=meta_optimizer,
        engine=engine,
        norm_may_grow=norm_may_grow,
        look=look,
    )


def _transformation(meta_optimizer: Any) -> optax.GradientTransformation:
    parts = (getattr(meta_optimizer, "init", None), getattr(meta_optimizer, "update", None))
    if isinstance(meta_optimizer, type) or not all(map(callable, parts)):
        remedy = "call it, like" if callable(meta_optimizer) else "give a transformation of optax, like"
        raise InvalidProblem(f"meta_optimizer is {short(meta_optimizer)}; {remedy} optax.adam(0.04)")
    return meta_optimizer


def _resumed(resume_from: Any, hyper: Any, meta_optimizer: optax.GradientTransformation) -> MetaState:
    """The state to go on from, if it is one of this meta-optimization."""
    if not isinstance(resume_from, MetaState):
        raise InvalidProblem(
            f"resume_from is of type {type(resume_from).__name__}; give the `state` of a MetaIteration, a MetaState"
        )
    begin = resume_from.hyper if hyper is None else finite_floats(hyper)
    for part, like in {"hyper": begin, "optimizer_state": meta_optimizer.init(begin)}.items():
        given, wanted = _layout(getattr(resume_from, part)), _layout(like)
        if given != wanted:
            raise InvalidProblem(
                f"resume_from.{part} is laid out as {given}, but here it is {wanted}; resume with the hyperparameters "
                "and the meta-optimizer that the state was made with"
            )
    iteration = an_int("resume_from.iteration", resume_from.iteration, least=0)
    return resume_from._replace(iteration=iteration)


def _is_positive(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and float(value) > 0


def _layout(tree: Any) -> tuple[Any, list[tuple[int, ...]]]:
    """Structure, and shapes of leaves."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, [np.shape(leaf) for leaf in leaves]


def _descend(
    problem: Problem | Callable[[int], Problem],
    state: MetaState,
    *,
    num_steps: int,
    num_iterations: int,
    keys: jax.Array | Callable[[int], jax.Array],
    optimizer: Optimizer,
    meta_optimizer: optax.GradientTransformation,
    engine: Engine | None,
    norm_may_grow: float | None,
    look: Look | None,
) -> Iterator[MetaIteration]:
    while state.iteration < num_iterations and not state.stopped:
        began = time.perf_counter()
        key = keys(state.iteration) if callable(keys) else keys
        posed = problem(state.iteration) if callable(problem) else problem
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
