"""Models fitted to labelled examples, of a data set or made up: classifiers, and regressions on targets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from sklearn.metrics import roc_auc_score

from core.datasets import DatasetInfo, Examples, SplitData
from core.engines import Problem
from core.hyperparameters import Group, Layout
from core.problems.augmentation import augment
from core.problems.balance import Members, members_of
from core.problems.hypers import Hyper, Hypers, interned
from core.problems.inner import Draw, Train
from core.problems.losses import Loss, losses_of, measures_of
from core.problems.models import Network, Params, network_of
from core.records import Evaluation, Losses
from core.spec import ClassifierProblem, JobSpec, LabelledProblem

_PARTS = ("train", "valid", "test")
_IN_UNITS = ("rmse", "mae")  # of the targets


class TrainedOn(NamedTuple):
    """What the inner loss takes its batches from."""

    inputs: jax.Array  # [n, features]; of made-up examples [n, 0], as they are hyperparameters
    labels: jax.Array  # [n]
    mean: jax.Array  # [features], what was taken from every input
    members: Members | None  # of each class, where batches are balanced


class Classifier:
    """The inner problem of a job on labelled examples. See `core.problems.inner.InnerProblem`.

    Step t trains on the t-th batch in order, cycling; the last examples are left out where their number is not a
    multiple of the batch size. Balanced batches are those of `core.problems.balance`. Batches are the same in every
    run; initial weights differ.
    """

    def __init__(
        self,
        spec: JobSpec,
        groups: tuple[Group, ...],
        layouts: dict[str, Layout],
        data: SplitData,
        info: DatasetInfo,
    ) -> None:
        problem, training = spec.problem, spec.training
        assert isinstance(problem, LabelledProblem)  # noqa: S101 - for the type checker
        self.groups, self.layouts = groups, layouts
        self.sha256: str | None = data.sha256
        self.facts = {"corrupted_labels": data.corrupted.astype(np.int8)} if data.corrupted.any() else {}
        self._data, self._outer_part = data, problem.outer_loss
        self._program = interned(
            _Program(
                network_of(problem.model, groups, info),
                problem.loss,
                training.batch_size or problem.num_training_examples,
                Hypers(training.optimizer, tuple(layouts.values()), groups, training.dtype),
                labels.confidence if (labels := spec.hyperparameters.labels) is not None else 0.0,
            )
        )
        train = self._to_device(data.train)
        outer = train if problem.outer_loss == "train" else self._to_device(data.valid)
        if isinstance(problem, ClassifierProblem) and problem.synthetic_examples is not None:
            count = problem.synthetic_examples
            train = Examples(jnp.zeros((count, 0)), jnp.arange(count) % groups[-1].shape[-1])
        if "labels" in layouts:
            self.facts["given_labels"] = np.asarray(train.labels, np.int16)
            if data.corrupted.any():
                self.facts["true_labels"] = data.true_labels.astype(np.int16)
        members = members_of(data.train.labels, info) if training.batches == "balanced" else None
        on = TrainedOn(train.inputs, train.labels, jnp.asarray(data.mean, training.dtype), members)
        self._problem = Problem(
            init=self._program.init,
            inner_loss=Partial(self._program.inner_loss, on),
            outer_loss=Partial(self._program.outer_loss, outer),
            schedule=self._program.schedule,
        )

    def draw(self, number: int) -> Draw:
        """See `InnerProblem`: always the same."""
        return Draw(self._problem, self._losses)

    def evaluate(self, hyper: Hyper, number: int, key: jax.Array, train: Train) -> Evaluation:
        """See `InnerProblem`. Measures: the share of each part that is classified rightly, or how far its targets are
        missed, in their own units; of learned example weights how well they tell corrupted labels from clean ones (area
        under the ROC curve); and of learned labels the share of the corrupted ones whose likeliest class is the true
        one.
        """
        params = train(self._problem)
        measures = {
            f"{part}_{name}": value * (self._data.target_unit if name in _IN_UNITS else 1)
            for part in _PARTS
            for name, value in self._measured(part, params)[1].items()
        }
        corrupted = self._data.corrupted
        if "example_weights" in hyper and 0 < corrupted.sum() < len(corrupted):
            measures["corrupted_labels_auc"] = float(
                roc_auc_score(~corrupted, np.asarray(hyper["example_weights"]))
            )
        if "labels" in hyper and corrupted.any():
            soft = self._program.soft(jnp.asarray(self._data.train.labels), hyper["labels"])
            right = np.asarray(soft.argmax(axis=-1)) == self._data.true_labels
            measures["corrupted_labels_corrected"] = float(right[corrupted].mean())
        return Evaluation(self._losses(params, hyper), measures)

    def _losses(self, params: Params, hyper: Hyper) -> Losses:
        parts = {part: self._measured(part, params)[0] for part in _PARTS}
        penalty = float(self._program.hypers.outer_penalty(hyper))
        return Losses(outer=parts[self._outer_part] + penalty, **parts)

    def _measured(self, part: str, params: Params) -> tuple[float, dict[str, float]]:
        examples = self._to_device(getattr(self._data, part))
        loss, measures = _measure(self._program.network, self._program.loss, params, examples)
        return float(loss), {name: float(value) for name, value in measures.items()}

    def _to_device(self, examples: Examples) -> Examples:
        dtype = self._program.hypers.dtype
        labels = examples.labels
        labels = jnp.asarray(labels, dtype) if labels.dtype.kind == "f" else jnp.asarray(labels)
        return Examples(jnp.asarray(examples.inputs, dtype), labels)


@dataclass(frozen=True)
class _Program:
    """What is compiled. Equal ones compile once."""

    network: Network
    loss: Loss
    batch_size: int
    hypers: Hypers
    confidence: float  # logit of the given class, where labels are learned

    def init(self, hyper: Hyper, key: jax.Array) -> Params:
        return self.network.params(self.hypers.initial(hyper, key))

    def schedule(self, hyper: Hyper) -> dict[str, jax.Array]:
        return self.hypers.schedule(hyper)

    def inner_loss(
        self, on: TrainedOn, params: Params, hyper: Hyper, step: jax.Array, key: jax.Array
    ) -> jax.Array:
        size, hypers = self.batch_size, self.hypers
        if on.members is None:
            start = step % (len(on.labels) // size) * size
            batch = partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=size)
        else:
            batch = partial(jnp.take, indices=on.members.batch(step, size), axis=0, mode="clip")

        def learned(name: str) -> jax.Array:
            return batch(hypers.natural(hyper, name).astype(hypers.dtype))

        inputs = learned("inputs") if "inputs" in hypers else batch(on.inputs)
        targets = batch(on.labels)
        if "augmentation" in hypers:
            inputs = augment(inputs + on.mean, hypers.natural(hyper, "augmentation"), key) - on.mean
        if "labels" in hypers:
            targets = self.soft(targets, learned("labels"))
        losses = losses_of(self.loss, self.network.outputs(params, inputs), targets)
        if "example_weights" in hypers:
            losses = learned("example_weights") * losses
        loss = jnp.mean(losses)
        return loss + hypers.penalty(jax.tree.leaves(params), hyper) if hypers.has_penalty else loss

    def outer_loss(self, examples: Examples, params: Params, hyper: Hyper, key: jax.Array) -> jax.Array:
        return _measure(self.network, self.loss, params, examples)[0] + self.hypers.outer_penalty(hyper)

    def soft(self, labels: jax.Array, added: jax.Array) -> jax.Array:
        given = jax.nn.one_hot(labels, added.shape[-1], dtype=added.dtype)
        return jax.nn.softmax(self.confidence * given + added)


@partial(jax.jit, static_argnames=("network", "loss"))
def _measure(
    network: Network, loss: Loss, params: Params, examples: Examples
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean loss, and what a user reads beside it."""
    outputs = network.outputs(params, examples.inputs)
    return jnp.mean(losses_of(loss, outputs, examples.labels)), measures_of(outputs, examples.labels)
