"""A JobSpec, carried out: the problem it describes, its outer loop, and the records the store keeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from core import datasets
from core.diagnostics import adjoint_growth, finite_difference_check, hypergradient_variance, metasmoothness
from core.engines import Engine, reversible, sgd, unrolled
from core.engines.certificate import Certificate
from core.engines.training import train
from core.errors import FixedPointOverflow, UncertifiedGradient
from core.hyperparameters import Group, Layout, groups_of, layouts_of
from core.meta_optimization import MetaIteration, MetaState, initial_state, meta_optimize
from core.problems.classifier import Classifier
from core.records import Checkpoint, Losses, MetaRecord, Values
from core.spec import JobSpec

_TRAINING_KEYS, _EVALUATION_KEYS, _DIAGNOSTIC_KEYS = 0, 1, 2  # streams that never meet


class Learner:
    """Learns the hyperparameters that a JobSpec asks for. Deterministic: the spec decides every bit.

    Attributes:
        spec: the job.
        groups: parameter groups of the inner problem.
        layouts: of every hyperparameter, learned or not.
    """

    def __init__(
        self,
        spec: JobSpec,
        data: datasets.SplitData,
        groups: tuple[Group, ...],
        layouts: dict[str, Layout],
        interrupt: Callable[[], None],
    ) -> None:
        self.spec, self.groups, self.layouts = spec, groups, layouts
        self._data, self._interrupt = data, interrupt
        self._classifier = Classifier.of(spec, groups, layouts)
        self._problem = self._classifier.problem(data)

    @classmethod
    def from_spec(cls, spec: JobSpec, *, interrupt: Callable[[], None] = lambda: None) -> Learner:
        """Load the data and set up the problem.

        Args:
            spec: the job.
            interrupt: called between jitted segments, about once a second or more often; what it raises ends the
                learning.

        Raises:
            InvalidSpec: the data set is missing, damaged or smaller than the split.
        """
        info = datasets.describe_for(spec)
        groups = groups_of(spec.problem, info.num_features, info.num_classes)
        return cls(spec, datasets.load(spec), groups, layouts_of(spec, groups), interrupt)

    @property
    def num_iterations(self) -> int:
        """Meta-iterations, unless a stop rule ends them earlier."""
        return self.spec.meta.num_iterations

    def initial(self) -> Values:
        """Where the learned hyperparameters start."""
        return {name: layout.initial_values() for name, layout in self.layouts.items() if layout.learn}

    def evaluate(self, values: Values) -> Losses:
        """Mean losses of training with `values` on the evaluation seeds, the same for every evaluation.

        Raises:
            FixedPointOverflow: training diverged on one of them.
        """
        losses = []
        for number in range(self.spec.meta.evaluation_seeds):
            params = train(
                self._problem,
                values,
                optimizer=sgd(),
                num_steps=self.spec.training.num_steps,
                key=_key(_EVALUATION_KEYS, number),
                interrupt=self._interrupt,
            )
            losses.append(self._classifier.losses(params, self._data))
        return Losses(*(float(mean) for mean in np.mean(losses, axis=0)))

    def run(self, checkpoint: Checkpoint | None = None) -> Iterator[MetaRecord]:
        """Learn, from the start or from a checkpoint, yielding a record per meta-iteration.

        Raises:
            FixedPointOverflow: training diverged.
            UncertifiedGradient: no engine allowed by the spec could prove its gradient.
        """
        meta = self.spec.meta
        optimizer = {"adam": optax.adam, "sgd": optax.sgd}[meta.optimizer](meta.step_size)
        start = initial_state(self.initial(), optimizer)
        iterations = meta_optimize(
            self._problem,
            None,
            num_steps=self.spec.training.num_steps,
            num_iterations=meta.num_iterations,
            keys=self._keys,
            meta_optimizer=optimizer,
            engine=self._engine(),
            norm_may_grow=meta.stop_when.hypergradient_norm_grows,
            resume_from=start if checkpoint is None else _resumed(checkpoint, start),
        )
        for iteration in iterations:
            yield self._record(iteration)

    def provenance(self) -> dict[str, Any]:
        """What the result depends on, as JSON values."""
        proof = Certificate(False, "", "", None, None, None)
        return {
            "device": proof.device,
            "versions": proof.versions | {"optax": optax.__version__, "numpy": np.__version__},
            "spec_sha256": self.spec.sha256(),
            "dataset_sha256": self._data.sha256,
            "seeds": {
                "training": self.spec.training.seed,
                "per_iteration": self.spec.meta.seeds_per_iteration,
                "evaluation": self.spec.meta.evaluation_seeds,
            },
        }

    def _engine(self) -> Engine:
        if self.spec.engine == "unrolled":
            return unrolled()
        return reversible(interrupt=self._interrupt, fallback=unrolled() if self.spec.engine == "auto" else None)

    def _keys(self, iteration: int) -> jax.Array:
        seed, count = self.spec.training.seed, self.spec.meta.seeds_per_iteration
        first = iteration * count if seed == "fresh" else seed * count
        return jnp.stack([_key(_TRAINING_KEYS, first + number) for number in range(count)])

    def _record(self, iteration: MetaIteration) -> MetaRecord:
        losses = np.mean([self._classifier.losses(one, self._data) for one in iteration.result.params], axis=0)
        state = iteration.state
        return MetaRecord(
            iteration=iteration.iteration,
            values=_to_numpy(iteration.hyper),
            losses=Losses(*map(float, losses))._replace(outer=float(iteration.result.value)),
            hypergradient_norm=iteration.hypergradient_norm,
            seconds=iteration.seconds,
            certificate=iteration.result.certificate.as_dict(),
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

    def _diagnostics(self, iteration: MetaIteration) -> dict[str, Any] | None:
        """What the spec wants measured at this meta-iteration, on its first training run; by the names in the spec."""
        asked = self.spec.diagnostics
        if not asked.every or iteration.iteration % asked.every:
            return None
        began = time.perf_counter()
        keys = self._keys(iteration.iteration)
        problem, hyper = self._problem, iteration.hyper
        seeds = [_key(_DIAGNOSTIC_KEYS, number) for number in range(asked.seeds)]
        run: dict[str, Any] = {
            "optimizer": sgd(),
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
                iteration.result.gradient if len(keys) == 1 else None,
                key=keys[0],
                directions=asked.finite_differences,
                engine=self._engine(),
                **run,
            )
        if asked.seeds:
            measurements["seeds"] = lambda: hypergradient_variance(
                problem, hyper, keys=jnp.stack(seeds), engine=self._engine(), **run
            )
        found = {name: _measured(measure) for name, measure in measurements.items()}
        return found | {"seconds": time.perf_counter() - began}


def _measured(measure: Callable[[], Any]) -> dict[str, Any]:
    """A measurement as JSON values. One that training elsewhere defeats is no reason to end the job."""
    try:
        found: dict[str, Any] = measure().as_dict()
    except (FixedPointOverflow, UncertifiedGradient) as error:
        return {"error": {"code": error.code, "message": str(error)}}
    return found


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
