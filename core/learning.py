"""A JobSpec, carried out: the problem it describes, its outer loop, and the records the store keeps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from core import engines
from core.datasets import GivenData
from core.diagnostics import (
    adjoint_growth,
    finite_difference_check,
    hypergradient_variance,
    metasmoothness,
    naive_reversal,
    path,
)
from core.engines import Engine, EnginePlan, Problem, hybrid, plan, reversible, unrolled
from core.engines.certificate import Certificate
from core.engines.training import train
from core.errors import UNTRAINABLE, UncertifiedGradient
from core.hyperparameters import Group, Layout
from core.meta_optimization import MetaIteration, MetaState, initial_state, meta_optimize
from core.moments import mean_and_deviation, moments
from core.own_problems import GivenOwn
from core.problems.inner import Draw, InnerProblem
from core.problems.made import inner_problem
from core.records import Checkpoint, Evaluation, Losses, MetaRecord, Trial, Values
from core.safeguard import guarded, look
from core.scan import points_of, scan
from core.search import best_of, suggest
from core.spec import JobSpec

_TRAINING_KEYS, _EVALUATION_KEYS, _DIAGNOSTIC_KEYS, _SEARCH_KEYS = 0, 1, 2, 3  # streams that never meet
_LONGEST_CURVE = 10_000  # steps of training whose losses are kept


class Learner:
    """Carries a JobSpec out. Deterministic: the spec decides every bit.

    Attributes:
        spec: the job.
        inner: its inner problem.
    """

    def __init__(
        self, spec: JobSpec, inner: InnerProblem, interrupt: Callable[[], None], keep_in: Path | None = None
    ) -> None:
        self.spec, self.inner, self._interrupt, self._keep_in = spec, inner, interrupt, keep_in
        self._optimizer = getattr(engines, spec.training.optimizer)()

    @classmethod
    def from_spec(
        cls,
        spec: JobSpec,
        *,
        given: GivenData | GivenOwn | None = None,
        interrupt: Callable[[], None] = lambda: None,
        keep_in: Path | None = None,
    ) -> Learner:
        """Load the data and set up the problem.

        Args:
            spec: the job.
            given: its data, or the program that it is about with its data, where they were uploaded.
            interrupt: called between jitted segments, about once a second or more often; what it raises ends the
                learning.
            keep_in: folder of this job, where stretches of a training with checkpoints are kept: see `hybrid`.

        Raises:
            InvalidSpec: a data set is missing, damaged or smaller than the split; or the program or installed problem
                is missing, or another than the job wants.
            InvalidProgram: it is damaged, or made of what is not run.
            PluginFailed: the package that brings the problem failed.
        """
        return cls(spec, inner_problem(spec, given), interrupt, keep_in)

    @property
    def groups(self) -> tuple[Group, ...]:
        """Parameter groups of the inner problem."""
        return self.inner.groups

    @property
    def layouts(self) -> dict[str, Layout]:
        """Of every hyperparameter, learned or not, by name."""
        return self.inner.layouts

    @property
    def num_iterations(self) -> int:
        """Meta-iterations, unless a stop rule ends them earlier."""
        return self.spec.num_iterations

    def initial(self) -> Values:
        """Where the learned hyperparameters start."""
        values = {name: layout.initial_values() for name, layout in self.layouts.items() if layout.learn}
        if self.spec.scan is not None:
            name = self.spec.scan.hyperparameter
            values[name] = np.full_like(values[name], points_of(self.spec.scan, self.layouts[name])[0])
        return values

    def evaluate(self, values: Values) -> Evaluation:
        """What training with `values` leads to: means over the evaluation seeds, the same for every evaluation.

        Raises:
            FixedPointOverflow: training diverged on one of them.
        """
        found = [self.evaluate_on(values, number) for number in range(self.spec.meta.evaluation_seeds)]
        losses = np.mean([one.losses for one in found], axis=0)
        everywhere = set.intersection(*(set(one.measures) for one in found))  # some are no numbers on some seeds
        measures = {
            name: float(np.mean([one.measures[name] for one in found]))
            for name in found[0].measures
            if name in everywhere
        }
        return Evaluation(Losses(*map(float, losses)), measures)

    def evaluate_on(self, values: Values, number: int) -> Evaluation:
        """The same on one evaluation seed, of any number.

        Raises:
            FixedPointOverflow: training diverged.
        """
        key = evaluation_key(number)
        return self.inner.evaluate(values, number, key, lambda problem: self._trained(problem, values, key))

    def _trained(self, problem: Problem, values: Values, key: jax.Array) -> Any:
        return train(
            problem,
            values,
            optimizer=self._optimizer,
            num_steps=self.spec.training.num_steps,
            key=key,
            interrupt=self._interrupt,
        )

    def search(self, past: Sequence[Trial]) -> Iterator[Trial]:
        """Try what the spec's warm start asks for, after the trials that there are already."""
        asked, trials = self.spec.meta.warm_start, list(past)
        while asked is not None and len(trials) < asked.trials:
            found = suggest(asked, self.layouts, trials)
            trials.append(Trial(len(trials), found, self._tried(found, len(trials))))
            yield trials[-1]

    def _tried(self, found: dict[str, float], number: int) -> float | None:
        values, problem = self._with(found), self._problem(number)
        key = _key(_SEARCH_KEYS, number)
        try:
            params = self._trained(problem, values, key)
        except UNTRAINABLE:
            return None
        loss = float(problem.outer_loss(params, values, key))
        return loss if math.isfinite(loss) else None

    def start(self, trials: Sequence[Trial]) -> Values:
        """Where the descent starts: as the spec says, but for what the best trial has found."""
        best = best_of(trials)
        return self.initial() if best is None else self._with(best.values)

    def _with(self, found: dict[str, float]) -> Values:
        values = self.initial()
        return values | {name: np.full_like(values[name], one) for name, one in found.items()}

    def run(self, checkpoint: Checkpoint | None = None, start: Values | None = None) -> Iterator[MetaRecord]:
        """Carry the job out, from the start or from a checkpoint, yielding a record per meta-iteration.

        Args:
            checkpoint: where to go on.
            start: where to begin without one; where the spec says unless given.

        Raises:
            FixedPointOverflow: training diverged.
            UncertifiedGradient: no engine allowed by the spec could prove its gradient.
        """
        optimizer = self._meta_optimizer()
        state = initial_state(self.initial() if start is None else start, optimizer)
        if checkpoint is not None:
            state = _resumed(checkpoint, state)
        elif self.spec.meta.safeguard is not None and self.spec.kind == "learn":
            state = self._looked(state, self._outer_loss(state))[0]
        for iteration in self._iterations(optimizer, state):
            yield self._record(iteration)

    def _iterations(self, optimizer: optax.GradientTransformation, state: MetaState) -> Iterator[MetaIteration]:
        run: dict[str, Any] = {
            "num_steps": self.spec.training.num_steps,
            "keys": self._keys,
            "optimizer": self._optimizer,
            "engine": self._engine(),
            "resume_from": state,
        }
        if self.spec.scan is not None:
            name = self.spec.scan.hyperparameter
            return scan(self._problem, name, points_of(self.spec.scan, self.layouts[name]), **run)
        return meta_optimize(
            self._problem,
            None,
            num_iterations=self.num_iterations,
            meta_optimizer=optimizer,
            norm_may_grow=self.spec.meta.stop_when.hypergradient_norm_grows,
            look=self._look if self.spec.kind == "learn" and self.spec.meta.safeguard is not None else None,
            **run,
        )

    def _draw(self, iteration: int) -> Draw:
        return self.inner.draw(0 if self.spec.kind == "scan" else iteration)

    def _problem(self, iteration: int) -> Problem:
        return self._draw(iteration).problem

    def _meta_optimizer(self) -> optax.GradientTransformation:
        meta = self.spec.meta
        if self.spec.kind == "hypergradient":
            return moments()
        if self.spec.kind == "scan":
            return optax.identity()
        return self._descent() if meta.safeguard is None else guarded(self._descent())

    def _descent(self) -> optax.GradientTransformation:
        meta = self.spec.meta
        adam = meta.optimizer == "adam"
        descent = optax.adam(meta.step_size) if adam else optax.sgd(meta.step_size)
        if meta.momentum:  # v ← γv + (1−γ)g, as the inner optimizer has it
            descent = optax.chain(optax.ema(meta.momentum, debias=False), descent)
        return descent if meta.clip is None else optax.chain(optax.clip_by_global_norm(meta.clip), descent)

    def _look(self, state: MetaState, diverged: bool) -> tuple[MetaState, dict[str, Any] | None]:
        """The safeguard: goes back where evaluation shows that the descent made things worse, or training diverged."""
        asked = self.spec.meta.safeguard
        assert asked is not None  # noqa: S101 - for the type checker
        last = state.iteration == self.num_iterations or state.stopped
        if not diverged and not last and state.iteration % asked.every:
            return state, None
        return self._looked(state, math.inf if diverged else self._outer_loss(state))

    def _outer_loss(self, state: MetaState) -> float:
        """On the evaluation seeds; infinite where training cannot be done on one of them."""
        try:
            return self.evaluate(_to_numpy(state.hyper)).losses.outer
        except UNTRAINABLE:
            return math.inf

    def _looked(self, state: MetaState, value: float) -> tuple[MetaState, dict[str, Any]]:
        """Where the descent goes on from a state whose outer loss on the evaluation seeds is known."""
        asked = self.spec.meta.safeguard
        assert asked is not None  # noqa: S101 - for the type checker
        hyper, guard, back = look(self._descent(), state.optimizer_state, state.hyper, value, asked.shrink)
        found = {
            "outer_loss": value if math.isfinite(value) else None,
            "stepped_back": back,
            "scale": float(guard.scale),
        }
        return state._replace(hyper=hyper, optimizer_state=guard), found

    def arrays(self, checkpoint: Checkpoint, best: Values) -> dict[str, np.ndarray]:
        """What was measured beside the learned values, by name: for figures and for download.

        `hypergradient.NAME.mean` and `.standard_deviation` over the seeds, of jobs of that kind; of those that learn,
        the inner loss in every step (`learning_curve.initial`, `.best`); and what is known of the inner problem's data.
        """
        if self.spec.kind == "hypergradient":
            found = {}
            for name, (mean, deviation) in mean_and_deviation(checkpoint.optimizer_state, sorted(best)).items():
                found[f"hypergradient.{name}.mean"] = mean
                found[f"hypergradient.{name}.standard_deviation"] = deviation
            return found
        found = dict(self.inner.facts)
        if self.spec.kind == "scan" or self.spec.training.num_steps > _LONGEST_CURVE:
            return found
        for which, values in (("initial", self.initial()), ("best", best)):
            walked = path(
                self._problem(0),
                values,
                optimizer=self._optimizer,
                num_steps=self.spec.training.num_steps,
                key=evaluation_key(0),
                interrupt=self._interrupt,
            )
            found[f"learning_curve.{which}"] = walked.losses
        return found

    def plan(self) -> EnginePlan:
        """What one hypergradient at the job's start takes, by each engine that a specification can name."""
        return plan(
            self._problem(0),
            self.initial(),
            optimizer=self._optimizer,
            num_steps=self.spec.training.num_steps,
            key=self._keys(0)[0],
            engines=list({one.name: one for one in (unrolled(), reversible(), self._engine())}.values()),
        )

    @property
    def engine(self) -> Engine:
        """The engine of the job's hypergradients."""
        return self._engine()

    def provenance(self) -> dict[str, Any]:
        """What the result depends on, as JSON values."""
        proof = Certificate(False, "", "", None, None, None)
        return {
            "device": proof.device,
            "versions": proof.versions | {"optax": optax.__version__, "numpy": np.__version__},
            "spec_sha256": self.spec.sha256(),
            "dataset_sha256": self.inner.sha256,
            "seeds": {
                "training": self.spec.training.seed,
                "per_iteration": self.spec.meta.seeds_per_iteration,
                "evaluation": self.spec.meta.evaluation_seeds,
            },
        }

    def _engine(self) -> Engine:
        if self.spec.engine == "unrolled":
            return unrolled()
        fallback = unrolled() if self.spec.engine == "auto" else None
        if (checkpoints := self.spec.training.checkpoints) > 1:
            return hybrid(
                checkpoints=checkpoints, interrupt=self._interrupt, fallback=fallback, keep_in=self._keep_in
            )
        return reversible(interrupt=self._interrupt, fallback=fallback)

    def _keys(self, iteration: int) -> jax.Array:
        seed, count = self.spec.training.seed, self.spec.meta.seeds_per_iteration
        if self.spec.kind == "scan":  # all else is as it is
            iteration = 0
        first = iteration * count if seed == "fresh" else seed * count
        return jnp.stack([_key(_TRAINING_KEYS, first + number) for number in range(count)])

    def _record(self, iteration: MetaIteration) -> MetaRecord:
        state = iteration.state
        return MetaRecord(
            iteration=iteration.iteration,
            values=_to_numpy(iteration.hyper),
            losses=self._losses(iteration),
            hypergradient_norm=iteration.hypergradient_norm,
            seconds=iteration.seconds,
            certificate=_UNPROVEN if iteration.result is None else iteration.result.certificate.as_dict(),
            is_best=iteration.is_best,
            diagnostics=self._diagnostics(iteration),
            checkpoint=Checkpoint(
                iteration=state.iteration,
                values=_to_numpy(state.hyper),
                optimizer_state=[np.asarray(leaf) for leaf in jax.tree.leaves(state.optimizer_state)],
                best_iteration=state.best_iteration,
                best_outer_loss=state.best_value,
                first_norm=state.first_norm,
                stopped=state.stopped,
            ),
        )

    def _losses(self, iteration: MetaIteration) -> Losses:
        if iteration.result is None:
            return Losses(*[float("nan")] * 4)
        losses = self._draw(iteration.iteration).losses
        found = np.mean([losses(one, iteration.hyper) for one in iteration.result.params], axis=0)
        return Losses(*map(float, found))._replace(outer=float(iteration.result.value))

    def _diagnostics(self, iteration: MetaIteration) -> dict[str, Any] | None:
        """What the spec wants measured at this meta-iteration, on its first training run; by the names in the spec."""
        asked = self.spec.diagnostics
        scanned: dict[str, Any] = {} if iteration.scanned is None else {"scan": iteration.scanned._asdict()}
        if iteration.looked is not None:
            scanned["safeguard"] = iteration.looked
        if not asked.every or iteration.iteration % asked.every:
            return scanned or None
        began = time.perf_counter()
        keys = self._keys(iteration.iteration)
        problem, hyper = self._problem(iteration.iteration), iteration.hyper
        seeds = [_key(_DIAGNOSTIC_KEYS, number) for number in range(asked.seeds)]
        run: dict[str, Any] = {
            "optimizer": self._optimizer,
            "num_steps": self.spec.training.num_steps,
            "interrupt": self._interrupt,
        }
        measurements: dict[str, Callable[[], Any]] = {}
        if asked.adjoint_growth:
            measurements["adjoint_growth"] = lambda: adjoint_growth(problem, hyper, key=keys[0], **run)
        if asked.metasmoothness:
            measurements["metasmoothness"] = lambda: metasmoothness(
                problem, hyper, key=keys[0], step=self.spec.meta.step_size, **run
            )
        if asked.finite_differences:
            measurements["finite_differences"] = lambda: finite_difference_check(
                problem,
                hyper,
                iteration.result.gradient if iteration.result is not None and len(keys) == 1 else None,
                key=keys[0],
                directions=asked.finite_differences,
                engine=self._engine(),
                **run,
            )
        if asked.seeds:
            measurements["seeds"] = lambda: hypergradient_variance(
                problem, hyper, keys=jnp.stack(seeds), engine=self._engine(), **run
            )
        if asked.path:
            measurements["path"] = lambda: path(problem, hyper, key=keys[0], keep_weights=True, **run)
        if asked.naive_reversal:
            measurements["naive_reversal"] = lambda: naive_reversal(problem, hyper, key=keys[0], **run)
        found = {name: _measured(measure) for name, measure in measurements.items()}
        return scanned | found | {"seconds": time.perf_counter() - began}


_UNPROVEN = {
    "exact": False,
    "engine": "",
    "mode": "",
    "reason": "training could not be done: there is no gradient",
}


def _measured(measure: Callable[[], Any]) -> dict[str, Any]:
    """A measurement as JSON values. One that training elsewhere defeats is no reason to end the job."""
    try:
        found: dict[str, Any] = measure().as_dict()
    except (*UNTRAINABLE, UncertifiedGradient) as error:
        return {"error": {"code": error.code, "message": str(error)}}
    return found


def evaluation_key(number: int) -> jax.Array:
    """Of the evaluation seed of this number."""
    return _key(_EVALUATION_KEYS, number)


def _key(stream: int, number: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(stream), number)


def _to_numpy(hyper: Any) -> Values:
    return {name: np.asarray(value) for name, value in hyper.items()}


def _resumed(checkpoint: Checkpoint, start: MetaState) -> MetaState:
    leaves, treedef = jax.tree.flatten(start.optimizer_state)
    restored = [
        jnp.asarray(saved, leaf.dtype) for saved, leaf in zip(checkpoint.optimizer_state, leaves, strict=True)
    ]
    return MetaState(
        iteration=checkpoint.iteration,
        hyper={name: jnp.asarray(value) for name, value in checkpoint.values.items()},
        optimizer_state=treedef.unflatten(restored),
        best_iteration=checkpoint.best_iteration,
        best_value=checkpoint.best_outer_loss,
        first_norm=checkpoint.first_norm,
        stopped=checkpoint.stopped,
    )
