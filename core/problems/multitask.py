"""Several classifiers trained together, whose weights are mixtures of latent ones: learned weight sharing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from core.alphabets import DRAWERS, SIDE, Drawings
from core.engines import Problem
from core.hyperparameters import Group, Layout
from core.problems.hypers import Hyper, Hypers, interned
from core.problems.inner import Draw, Train
from core.problems.networks import Params, activation_of, cross_entropies, layers_of, logits_of
from core.records import Evaluation, Losses
from core.spec import MLP, Alphabets, JobSpec, LogisticRegression, MultitaskProblem

_TEST_SEED, _HELD_OUT_SEED = 2, 3  # of fixed draws: which drawings are tested on, and which are held out
_EVALUATIONS = 1 << 20  # numbers of draws for evaluation, which no meta-iteration has


class Task(NamedTuple):
    """Examples of one task."""

    inputs: jax.Array  # [n, features]
    labels: jax.Array  # [n]


Tasks = tuple[Task, ...]  # not one array: they differ in size, and to fill them up costs twice the time


class Multitask:
    """A network for each alphabet, all trained at once. See `core.problems.inner.InnerProblem`.

    Of every character some drawings are for testing. Of the others, those held out for the outer loss are drawn anew in
    every meta-iteration; what training in the end is tested on trains on them too.
    """

    def __init__(
        self, spec: JobSpec, groups: tuple[Group, ...], layouts: dict[str, Layout], data: Drawings
    ) -> None:
        problem, training = spec.problem, spec.training
        assert isinstance(problem, MultitaskProblem)  # noqa: S101 - for the type checker
        self.groups, self.layouts = groups, layouts
        self.sha256: str | None = data.sha256
        self.facts: dict[str, np.ndarray] = {}
        self._dataset, self._outer_part = problem.dataset, problem.outer_loss
        self._program = interned(
            _Program(problem.model, Hypers(training.optimizer, tuple(layouts.values()), groups, training.dtype))
        )
        self._images = _images_of(data, problem.dataset)
        most = max(len(images) for images in self._images)
        everyone = _permutations(_TEST_SEED, (len(self._images), most), DRAWERS)
        self._kept, tested = np.split(everyone, [problem.dataset.train], axis=-1)
        self._mean = np.concatenate(self._drawn(self._kept)).mean(axis=0)
        self._whole = self._tasks(self._kept)
        self._test = self._tasks(tested[..., : problem.dataset.test])

    def draw(self, number: int) -> Draw:
        """See `InnerProblem`."""
        shuffled = np.take_along_axis(
            self._kept, _permutations(_HELD_OUT_SEED + number, self._kept.shape[:2], self._kept.shape[2]), -1
        )
        held_out, trained_on = np.split(shuffled, [self._dataset.valid], axis=-1)
        train, valid = self._tasks(trained_on), self._tasks(held_out)
        outer = train if self._outer_part == "train" else valid
        return Draw(self._problem(train, outer), partial(self._losses, train, valid))

    def evaluate(self, hyper: Hyper, number: int, key: jax.Array, train: Train) -> Evaluation:
        """See `InnerProblem`. Training and test loss are of a second training, on the drawings held out too."""
        draw = self.draw(_EVALUATIONS + number)
        losses = draw.losses(train(draw.problem), hyper)
        params = train(self._problem(self._whole, self._whole))
        train_loss, train_accuracy = self._measured(params, hyper, self._whole)
        test_loss, test_accuracy = self._measured(params, hyper, self._test)
        return Evaluation(
            losses._replace(train=train_loss, test=test_loss),
            {"train_accuracy": train_accuracy, "test_accuracy": test_accuracy},
        )

    def _problem(self, train: Tasks, outer: Tasks) -> Problem:
        return Problem(
            init=self._program.init,
            inner_loss=Partial(self._program.inner_loss, train),
            outer_loss=Partial(self._program.outer_loss, outer),
            schedule=self._program.schedule,
        )

    def _losses(self, train: Tasks, valid: Tasks, params: Params, hyper: Hyper) -> Losses:
        parts = {
            name: self._measured(params, hyper, tasks)[0]
            for name, tasks in (("train", train), ("valid", valid), ("test", self._test))
        }
        return Losses(outer=parts[self._outer_part] + float(self._program.hypers.outer_penalty(hyper)), **parts)

    def _measured(self, params: Params, hyper: Hyper, tasks: Tasks) -> tuple[float, float]:
        loss, accuracy = _measure(self._program, params, hyper, tasks)
        return float(loss), float(accuracy)

    def _drawn(self, drawings: np.ndarray) -> list[np.ndarray]:
        """Of each task these drawings [tasks, characters, n] of its characters, as [examples, pixels]."""
        return [
            np.take_along_axis(images, which[: len(images), :, None], axis=1).reshape(-1, SIDE * SIDE)
            for images, which in zip(self._images, drawings, strict=True)
        ]

    def _tasks(self, drawings: np.ndarray) -> Tasks:
        """Tasks with these drawings of each character, [tasks, characters, n]."""
        each = drawings.shape[-1]
        return tuple(
            Task(
                jnp.asarray(inputs - self._mean, self._program.hypers.dtype),
                jnp.asarray(np.repeat(np.arange(len(inputs) // each), each)),
            )
            for inputs in self._drawn(drawings)
        )


def _images_of(data: Drawings, dataset: Alphabets) -> list[np.ndarray]:
    """Images of each task, [characters, drawers, pixels]."""
    alphabets = list(data.images)
    if dataset.rotated:
        alphabets += [np.rot90(images, axes=(-2, -1)) for images in data.images]
    return [images.reshape(*images.shape[:2], -1) for images in alphabets]


def _permutations(seed: int, shape: tuple[int, ...], count: int) -> np.ndarray:
    """Permutations of `range(count)`, as many as `shape` says, [*shape, count]."""
    draw = np.random.Generator(np.random.PCG64(seed))
    return draw.permuted(np.broadcast_to(np.arange(count), (*shape, count)), axis=-1)


@dataclass(frozen=True)
class _Program:
    """What is compiled. Equal ones compile once."""

    model: LogisticRegression | MLP
    hypers: Hypers

    def init(self, hyper: Hyper, key: jax.Array) -> Params:
        return layers_of(self.hypers.initial(hyper, key))

    def schedule(self, hyper: Hyper) -> dict[str, jax.Array]:
        return self.hypers.schedule(hyper)

    def inner_loss(self, tasks: Tasks, params: Params, hyper: Hyper, step: jax.Array, key: jax.Array) -> jax.Array:
        loss = jnp.sum(self.losses(tasks, params, hyper)[0])
        return loss + self.hypers.penalty(jax.tree.leaves(params), hyper) if self.hypers.has_penalty else loss

    def outer_loss(self, tasks: Tasks, params: Params, hyper: Hyper, key: jax.Array) -> jax.Array:
        return jnp.mean(self.losses(tasks, params, hyper)[0]) + self.hypers.outer_penalty(hyper)

    def losses(self, tasks: Tasks, params: Params, hyper: Hyper) -> tuple[jax.Array, jax.Array]:
        """Of each task: the mean cross-entropy, and the share of examples whose class is the likeliest."""
        activation, mixed = activation_of(self.model), self._mixed(params, hyper)
        losses, right = [], []
        for number, task in enumerate(tasks):
            logits = logits_of(
                activation, jax.tree.map(lambda leaf, number=number: leaf[number], mixed), task.inputs
            )
            losses.append(jnp.mean(cross_entropies(logits, task.labels)))
            right.append(jnp.mean(jnp.argmax(logits, axis=-1) == task.labels))
        return jnp.stack(losses), jnp.stack(right)

    def _mixed(self, latent: Params, hyper: Hyper) -> Params:
        """Weights of each task: in every layer T z."""
        mixing = self.hypers.natural(hyper, "task_mixing").astype(self.hypers.dtype)
        return {
            name: jax.tree.map(lambda leaf, of_layer=of_layer: jnp.tensordot(of_layer, leaf, 1), layer)
            for of_layer, (name, layer) in zip(mixing, latent.items(), strict=True)
        }


@partial(jax.jit, static_argnames="program")
def _measure(program: _Program, params: Params, hyper: Hyper, tasks: Tasks) -> tuple[jax.Array, jax.Array]:
    losses, accuracies = program.losses(tasks, params, hyper)
    return jnp.mean(losses), jnp.mean(accuracies)
