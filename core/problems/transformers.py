"""Small transformer encoders, of Equinox's layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from core.spec import Transformer

_ACTIVATIONS = {"gelu": jax.nn.gelu, "relu": jax.nn.relu, "tanh": jnp.tanh}


def attended(
    model: Transformer, image: tuple[int, int] | None, params: Mapping[str, jax.Array], inputs: jax.Array
) -> jax.Array:
    """Outputs [n, outputs] of inputs [n, features].

    Args:
        model: its sizes.
        image: height and width of an example, where its tokens are rows or patches.
        params: by the names of their groups. Those of norms are what is added to 1 and to 0, so that they too start
            around 0; the biases of the embedding are a token's place.
        inputs: of each example, row by row.
    """
    blocks = [_block(model, params, f"block_{number}.") for number in range(1, model.blocks + 1)]
    last = _norm(params, "norm")

    def encoded(tokens: jax.Array) -> jax.Array:
        for block in blocks:
            tokens = block(tokens)
        return last(jnp.mean(tokens, axis=0))

    return (
        jax.vmap(encoded)(_embedded(model, image, params, inputs)) @ params["output.weights"]
        + params["output.biases"]
    )


def _embedded(
    model: Transformer, image: tuple[int, int] | None, params: Mapping[str, jax.Array], inputs: jax.Array
) -> jax.Array:
    """[n, tokens, width]."""
    weights, places = params["embedding.weights"], params["embedding.biases"]
    if model.tokens == "features":
        return inputs[:, :, None] * weights + places
    assert image is not None  # noqa: S101 - for the type checker
    height, width = image
    if model.tokens == "rows":
        tokens = inputs.reshape(-1, height, width)
    else:
        side = model.patch or 1
        squares = inputs.reshape(-1, height // side, side, width // side, side)
        tokens = squares.swapaxes(2, 3).reshape(len(inputs), -1, side * side)
    return tokens @ weights + places


def _block(model: Transformer, params: Mapping[str, jax.Array], name: str) -> Any:
    norm_of_attention, norm_of_hidden = (
        _norm(params, f"{name}norm_of_attention"),
        _norm(params, f"{name}norm_of_hidden"),
    )
    attention, activation = _attention(model, params, name), _ACTIVATIONS[model.activation]
    hidden, back = _affine(params, f"{name}hidden"), _affine(params, f"{name}back")

    def block(tokens: jax.Array) -> jax.Array:
        normed = jax.vmap(norm_of_attention)(tokens)
        tokens = tokens + attention(normed, normed, normed)
        normed = jax.vmap(norm_of_hidden)(tokens)
        return tokens + jax.vmap(lambda token: back(activation(hidden(token))))(normed)

    return block


def _attention(model: Transformer, params: Mapping[str, jax.Array], name: str) -> Any:
    made = eqx.filter_eval_shape(
        eqx.nn.MultiheadAttention,
        model.heads,
        model.width,
        use_query_bias=True,
        use_value_bias=True,
        use_output_bias=True,
        dtype=params[f"{name}query.weights"].dtype,
        key=jax.random.key(0),
    )
    projections = ("query", "key", "value", "attention")
    weights = [params[f"{name}{one}.weights"].T for one in projections]
    biases = [params[f"{name}{one}.biases"] for one in projections if one != "key"]

    def places(layer: Any) -> tuple[Any, ...]:
        every = (layer.query_proj, layer.key_proj, layer.value_proj, layer.output_proj)
        return (*(one.weight for one in every), *(one.bias for one in every if one.bias is not None))

    return eqx.tree_at(places, made, (*weights, *biases))


def _affine(params: Mapping[str, jax.Array], name: str) -> Any:
    weights, biases = params[f"{name}.weights"], params[f"{name}.biases"]
    made = eqx.filter_eval_shape(eqx.nn.Linear, *weights.shape, dtype=weights.dtype, key=jax.random.key(0))
    return eqx.tree_at(lambda layer: (layer.weight, layer.bias), made, (weights.T, biases))


def _norm(params: Mapping[str, jax.Array], name: str) -> Any:
    weights, biases = params[f"{name}.weights"], params[f"{name}.biases"]
    made = eqx.filter_eval_shape(eqx.nn.LayerNorm, weights.shape, dtype=weights.dtype)
    return eqx.tree_at(lambda layer: (layer.weight, layer.bias), made, (1 + weights, biases))
