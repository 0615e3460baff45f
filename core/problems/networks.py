"""Multilayer perceptrons, and how wrong they are."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from core.spec import MLP, LogisticRegression

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}


class Layer(NamedTuple):
    """An affine map: inputs @ weights + biases."""

    weights: jax.Array
    biases: jax.Array


Params = dict[str, Layer]  # layer_1, layer_2, …; fewer than ten, so that they sort by number


def layers_of(leaves: list[jax.Array]) -> Params:
    """Layers from their weights and biases in turn."""
    pairs = zip(leaves[::2], leaves[1::2], strict=True)
    return {f"layer_{number}": Layer(*pair) for number, pair in enumerate(pairs, start=1)}


def activation_of(model: LogisticRegression | MLP) -> Any:
    """The function between layers; None where there is but one layer."""
    return ACTIVATIONS[model.activation] if isinstance(model, MLP) else None


def logits_of(activation: Any, params: Params, inputs: jax.Array) -> jax.Array:
    """Unnormalized log-probabilities [n, classes] of inputs [n, features]."""
    layers = list(params.values())
    hidden = inputs
    for layer in layers[:-1]:
        hidden = activation(hidden @ layer.weights + layer.biases)
    return hidden @ layers[-1].weights + layers[-1].biases


def cross_entropies(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Of each example, [n]. Targets are classes [n] or distributions [n, classes]."""
    if targets.ndim < logits.ndim:
        targets = jax.nn.one_hot(targets, logits.shape[-1], dtype=logits.dtype)
    return optax.losses.softmax_cross_entropy(logits, targets)
