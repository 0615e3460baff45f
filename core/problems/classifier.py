"""Classifiers: logistic regression and multilayer perceptrons on labelled examples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial

from core.datasets import Examples, SplitData
from core.engines import Problem
from core.hyperparameters import Group, Layout
from core.records import Losses
from core.spec import MLP, JobSpec, LogisticRegression

_ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}


class Layer(NamedTuple):
    """An affine map: inputs @ weights + biases."""

    weights: jax.Array
    biases: jax.Array


Params = dict[str, Layer]  # layer_1, layer_2, …; fewer than ten, so that they sort by number
Hyper = dict[str, jax.Array]  # learned hyperparameters, unconstrained


@dataclass(frozen=True)
class Classifier:
    """A classifier whose training is the inner problem of a job.

    Step t trains on the t-th batch of the training part in order, cycling; the part's last examples are left out
    where it is not a multiple of the batch size. Batches are the same in every run; initial weights differ.
    """

    model: LogisticRegression | MLP
    outer_part: str  # train or valid
    batch_size: int
    dtype: str
    groups: tuple[Group, ...]
    layouts: tuple[Layout, ...]

    @classmethod
    def of(cls, spec: JobSpec, groups: tuple[Group, ...], layouts: dict[str, Layout]) -> Classifier:
        """The classifier of `spec`. Equal ones are one object: a warm worker finds what it compiled before."""
        problem, training = spec.problem, spec.training
        layout = tuple(layouts.values())
        return _intern(cls(problem.model, problem.outer_loss, training.batch_size, training.dtype, groups, layout))

    def problem(self, data: SplitData) -> Problem:
        """The inner and outer problem on `data`."""
        train = self._to_device(data.train)
        outer = train if self.outer_part == "train" else self._to_device(data.valid)
        return Problem(
            init=self._init,
            inner_loss=Partial(self._inner_loss, train),
            outer_loss=Partial(self._outer_loss, outer),
            schedule=self._schedule,
        )

    def losses(self, params: Params, data: SplitData) -> Losses:
        """Mean cross-entropy on each part."""
        parts = {name: float(self._mean_loss(getattr(data, name), params)) for name in ("train", "valid", "test")}
        return Losses(outer=parts[self.outer_part], **parts)

    def _to_device(self, examples: Examples) -> Examples:
        return Examples(jnp.asarray(examples.inputs, self.dtype), jnp.asarray(examples.labels))

    def _mean_loss(self, examples: Examples, params: Params) -> jax.Array:
        return _mean_cross_entropy(self._activation, params, self._to_device(examples))

    @property
    def _activation(self) -> Any:
        return _ACTIVATIONS[self.model.activation] if isinstance(self.model, MLP) else None

    def _layout(self, name: str) -> Layout:
        return next(layout for layout in self.layouts if layout.name == name)

    def _natural(self, hyper: Hyper, name: str) -> jax.Array:
        layout = self._layout(name)
        return layout.natural(hyper[name], jnp) if layout.learn else jnp.full(layout.shape, layout.initial)

    def _init(self, hyper: Hyper, key: jax.Array) -> Params:
        scales = jnp.broadcast_to(self._natural(hyper, "init_scale"), len(self.groups))
        leaves = [
            (scale * jax.random.normal(one, group.shape)).astype(self.dtype)
            for scale, group, one in zip(scales, self.groups, jax.random.split(key, len(self.groups)), strict=True)
        ]
        return {
            f"layer_{number}": Layer(*pair)
            for number, pair in enumerate(zip(leaves[::2], leaves[1::2], strict=True), start=1)
        }

    def _schedule(self, hyper: Hyper) -> dict[str, jax.Array]:
        schedule = {}
        for name in ("step_size", "momentum"):
            values = self._natural(hyper, name)
            schedule[name] = values[None] if self._layout(name).axes == ("group",) else values  # [1, groups]
        return schedule

    def _inner_loss(
        self, train: Examples, params: Params, hyper: Hyper, step: jax.Array, key: jax.Array
    ) -> jax.Array:
        size = self.batch_size
        start = step % (len(train.labels) // size) * size
        batch = Examples(*(jax.lax.dynamic_slice_in_dim(part, start, size) for part in train))
        loss = _mean_cross_entropy(self._activation, params, batch)
        layout = self._layout("l2")
        return loss + self._penalty(params, hyper) if layout.learn or layout.initial else loss

    def _penalty(self, params: Params, hyper: Hyper) -> jax.Array:
        """Sum of λ·w²."""
        strengths = self._natural(hyper, "l2").astype(self.dtype)
        squares = [jnp.square(leaf) for leaf in jax.tree.leaves(params)]
        if self._layout("l2").axes == ("weight",):
            return strengths @ jnp.concatenate([square.ravel() for square in squares])
        return jnp.sum(strengths * jnp.stack([jnp.sum(square) for square in squares]))

    def _outer_loss(self, examples: Examples, params: Params, hyper: Hyper, key: jax.Array) -> jax.Array:
        return _mean_cross_entropy(self._activation, params, examples)


@lru_cache(maxsize=16)
def _intern(classifier: Classifier) -> Classifier:
    return classifier


@partial(jax.jit, static_argnames="activation")
def _mean_cross_entropy(activation: Any, params: Params, examples: Examples) -> jax.Array:
    layers = list(params.values())
    hidden = examples.inputs
    for layer in layers[:-1]:
        hidden = activation(hidden @ layer.weights + layer.biases)
    logits = hidden @ layers[-1].weights + layers[-1].biases
    return jnp.mean(
        optax.losses.softmax_cross_entropy(
            logits, jax.nn.one_hot(examples.labels, logits.shape[-1], dtype=logits.dtype)
        )
    )
