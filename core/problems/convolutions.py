"""Convolutional networks, of Equinox's layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from core.problems.networks import ACTIVATIONS
from core.spec import CNN


def convolved(model: CNN, image: tuple[int, int], params: Mapping[str, jax.Array], inputs: jax.Array) -> jax.Array:
    """Outputs [n, outputs] of images [n, height * width].

    Args:
        model: its sizes.
        image: height and width.
        params: by the names of their groups; weights of convolutions are [kernel, kernel, in, out].
        inputs: row by row.
    """
    activation, pool = ACTIVATIONS[model.activation], _pooling(model.pool)
    layers = [
        _convolution(model.kernel, params[f"{name}.weights"], params[f"{name}.biases"])
        for name in (f"convolution_{number}" for number in range(1, len(model.channels) + 1))
    ]

    def features(pixels: jax.Array) -> jax.Array:
        hidden = pixels.reshape(1, *image)
        for layer in layers:
            hidden = pool(activation(layer(hidden)))
        return hidden.ravel()

    return jax.vmap(features)(inputs) @ params["output.weights"] + params["output.biases"]


def _convolution(kernel: int, weights: jax.Array, biases: jax.Array) -> Any:
    """Equinox's layer around weights that exist: its own are never drawn."""
    _, _, before, after = weights.shape
    made = eqx.filter_eval_shape(
        eqx.nn.Conv2d, before, after, kernel, padding="SAME", dtype=weights.dtype, key=jax.random.key(0)
    )
    own = jnp.moveaxis(weights, (0, 1), (2, 3)).swapaxes(0, 1)  # [out, in, kernel, kernel]
    return eqx.tree_at(lambda layer: (layer.weight, layer.bias), made, (own, biases[:, None, None]))


def _pooling(pool: int) -> Any:
    # the mean and not the largest: the derivative of that picks one of equals, and is scattered
    return eqx.nn.AvgPool2d(pool, stride=pool) if pool > 1 else lambda hidden: hidden
