"""A problem that the service has never seen: a small recurrent net that tells sequences apart, exported by JAX."""

import jax
import jax.numpy as jnp
import numpy as np

from core import export_problem

STEPS, WIDTH, COUNT, LENGTH, FEATURES = 12, 6, 40, 5, 3
HYPER = {
    "log_scale": np.float64(-1.0),
    "log_l2": np.float64(-5.0),
    "log_step": np.full(STEPS, -1.0),
    "momentum": np.float64(1.0),
}


def sequences():
    """Sequences [n, time, features], and whether their first feature sums to more than zero."""
    inputs = np.random.default_rng(0).normal(size=(COUNT, LENGTH, FEATURES))
    return inputs, (inputs[:, :, 0].sum(axis=1) > 0).astype(np.int64)


def logits(params, inputs):
    def cell(state, now):
        return jnp.tanh(state @ params["recurrent"] + now @ params["inputs"]), None

    start = jnp.zeros((len(inputs), WIDTH), inputs.dtype)
    return jax.lax.scan(cell, start, inputs.swapaxes(0, 1))[0] @ params["outputs"]


def loss(params, data):
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits(params, data["inputs"])), data["labels"][:, None], 1)
    return -jnp.mean(chosen)


def init(hyper, key):
    keys = jax.random.split(key, 3)
    shapes = {"recurrent": (WIDTH, WIDTH), "inputs": (FEATURES, WIDTH), "outputs": (WIDTH, 2)}
    scale = jnp.exp(hyper["log_scale"]).astype(jnp.float32)
    return {
        name: scale * jax.random.normal(key, shape, jnp.float32)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def inner_loss(data, params, hyper, step, key):
    part = {name: jax.lax.dynamic_slice_in_dim(all_, step % 2 * 20, 20) for name, all_ in data["train"].items()}
    penalty = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
    return loss(params, part) + jnp.exp(hyper["log_l2"]).astype(jnp.float32) * penalty


def outer_loss(data, params, hyper, key):
    return loss(params, data["train"])


def schedule(hyper):
    return {"step_size": jnp.exp(hyper["log_step"]), "momentum": jax.nn.sigmoid(hyper["momentum"])}


def accuracy(data, params, hyper, key):
    right = jnp.argmax(logits(params, data["train"]["inputs"]), 1) == data["train"]["labels"]
    return {"accuracy": jnp.mean(right.astype(jnp.float32))}


def exported():
    """The archive."""
    data = {
        "train": {
            "inputs": jax.ShapeDtypeStruct((COUNT, LENGTH, FEATURES), jnp.float32),
            "labels": jax.ShapeDtypeStruct((COUNT,), jnp.int32),
        }
    }
    return export_problem(
        init, inner_loss, outer_loss, schedule, HYPER, num_steps=STEPS, data=data, metrics=accuracy
    )
