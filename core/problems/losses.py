"""How wrong outputs are, example by example, and what a user reads of it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from core.problems.networks import cross_entropies
from core.spec import CrossEntropy, Hinge, Huber, Quantile, Squared

Loss = CrossEntropy | Hinge | Squared | Huber | Quantile


def losses_of(loss: Loss, outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Of each example, [n].

    Args:
        loss: which.
        outputs: of the model, [n, classes]; [n, 1] of a regression.
        labels: classes [n], distributions over them [n, classes], or targets [n].
    """
    match loss:
        case CrossEntropy():
            return cross_entropies(outputs, labels)
        case Hinge(smoothing=width):
            sides = 2 * jax.nn.one_hot(labels, outputs.shape[-1], dtype=outputs.dtype) - 1
            missing = jax.nn.relu(1 - sides * outputs)
            return jnp.sum(optax.losses.huber_loss(missing, delta=width), axis=-1) / width
        case Squared():
            return optax.losses.squared_error(outputs[:, 0], labels)
        case Huber(delta=delta):
            return optax.losses.huber_loss(outputs[:, 0], labels, delta=delta)
        case Quantile(q=q):
            error = labels - outputs[:, 0]
            return jnp.maximum(q * error, (q - 1) * error)
    raise TypeError(f"no loss {loss!r}")


def measures_of(outputs: jax.Array, labels: jax.Array) -> dict[str, Any]:
    """Of a part: of classes the share rightly told; of targets the root of the mean square error and the mean error.

    And of targets the share of their variance that is explained, which is negative where their mean would do better.
    """
    if not jnp.issubdtype(labels.dtype, jnp.floating):
        return {"accuracy": jnp.mean(jnp.argmax(outputs, axis=-1) == labels)}
    errors = outputs[:, 0] - labels
    square, spread = jnp.mean(jnp.square(errors)), jnp.var(labels)
    return {
        "rmse": jnp.sqrt(square),
        "mae": jnp.mean(jnp.abs(errors)),
        # of targets that are all the same nothing is to be explained
        "r2": jnp.where(spread > 0, 1 - square / jnp.where(spread > 0, spread, 1), 0.0),
    }
