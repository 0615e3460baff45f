"""A JobSpec, carried out: the problem it describes, its outer loop, and the records the store keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from core import engines
from core.checkpoints import checkpoint_of, resumed, to_numpy
from core.datasets import GivenData
from core.descent import descent
from core.diagnostics import path
from core.engines import Engine, EnginePlan, Problem, hybrid, plan, reversible, unrolled
from core.engines.certificate import Certificate
from core.engines.training import train
from core.errors import UNTRAINABLE
from core.hyperparameters import Group, Layout
from core.keys import Stream, evaluation_key, key_of
from core.measuring import measured
from core.meta_optimization import MetaIteration, MetaState, initial_state, meta_optimize
from core.moments import mean_and_deviation, moments
from core.own_problems import GivenOwn
from core.problems.inner import Draw, InnerProblem
from core.problems.made import inner_problem
from core.records import Checkpoint, Evaluation, Losses, MetaRecord, Trial, Values
from core.safeguard import Safeguard
from core.scan import points_of, scan
from core.search import best_of, suggest
from core.spec import JobSpec

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
        guards = spec.kind == "learn" and spec.meta.safeguard is not None
        self._safeguard = Safeguard(spec.meta, self._outer_loss) if guards else None

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
        key = key_of(Stream.SEARCH, number)
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
            state = resumed(checkpoint, state)
        elif self._safeguard is not None:
            state = self._safeguard.begin(state)
        for iteration in self._iterations(optimizer, state):
            yield self._record(iteration)

    def _iterations(self, optimizer: optax.GradientTransformation, state: MetaState) -> Iterator[MetaIteration]:
        run: dict[str, Any] = {
            "num_steps": self.spec.training.num_steps,
            "keys": self._keys,
            "optimizer": self._optimizer,
            "engine": self.engine,
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
            look=self._safeguard,
            **run,
        )

    def _draw(self, iteration: int) -> Draw:
        return self.inner.draw(0 if self.spec.kind == "scan" else iteration)

    def _problem(self, iteration: int) -> Problem:
        return self._draw(iteration).problem

    def _meta_optimizer(self) -> optax.GradientTransformation:
        if self.spec.kind == "hypergradient":
            return moments()
        if self.spec.kind == "scan":
            return optax.identity()
        return descent(self.spec.meta) if self._safeguard is None else self._safeguard.optimizer

    def _outer_loss(self, values: Values) -> float:
        """On the evaluation seeds; infinite where training cannot be done on one of them."""
        try:
            return self.evaluate(values).losses.outer
        except UNTRAINABLE:
            return math.inf

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

    def plan(self, seconds: float = math.inf) -> EnginePlan:
        """What one hypergradient at the job's start takes, by each engine that a specification can name.

        The job's own comes first; others are probed as long as there is likely time for them.
        """
        own = self.engine
        return plan(
            self._problem(0),
            self.initial(),
            optimizer=self._optimizer,
            num_steps=self.spec.training.num_steps,
            key=self._keys(0)[0],
            engines=[own, *(one for one in (reversible(), unrolled()) if one.name != own.name)],
            seconds=seconds,
        )

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

    @property
    def engine(self) -> Engine:
        """The engine of the job's hypergradients."""
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
        return jnp.stack([key_of(Stream.TRAINING, first + number) for number in range(count)])

    def _record(self, iteration: MetaIteration) -> MetaRecord:
        state = iteration.state
        return MetaRecord(
            iteration=iteration.iteration,
            values=to_numpy(iteration.hyper),
            losses=self._losses(iteration),
            hypergradient_norm=iteration.hypergradient_norm,
            seconds=iteration.seconds,
            certificate=_UNPROVEN if iteration.result is None else iteration.result.certificate.as_dict(),
            is_best=iteration.is_best,
            diagnostics=self._diagnostics(iteration),
            checkpoint=checkpoint_of(state),
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
        found: dict[str, Any] = {} if iteration.scanned is None else {"scan": iteration.scanned._asdict()}
        if iteration.looked is not None:
            found["safeguard"] = iteration.looked
        if asked.every and not iteration.iteration % asked.every:
            keys = self._keys(iteration.iteration)
            found |= measured(
                asked,
                self._problem(iteration.iteration),
                iteration.hyper,
                key=keys[0],
                gradient=iteration.result.gradient if iteration.result is not None and len(keys) == 1 else None,
                step=self.spec.meta.step_size,
                engine=self.engine,
                optimizer=self._optimizer,
                num_steps=self.spec.training.num_steps,
                interrupt=self._interrupt,
            )
        return found or None


_UNPROVEN = {
    "exact": False,
    "engine": "",
    "mode": "",
    "reason": "training could not be done: there is no gradient",
}
