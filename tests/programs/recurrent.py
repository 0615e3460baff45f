"""A problem that the service has no kind for: a recurrent net on sequences, everything of it learned."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from core import Problem
from core.programs.exporting import export_problem

STEPS, GROUPS = 20, 3
SHAPES = {"hidden": (6, 6), "inputs": (3, 6), "output": (6, 1)}
EXAMPLES, BATCH, LENGTH, FEATURES, WIDTH = 48, 16, 5, 3, 6


class Case(NamedTuple):
    """The user's functions, and what they are called with."""

    functions: dict[str, Any]
    hyper: dict[str, Any]
    data: dict[str, dict[str, jax.Array]]

    @property
    def native(self):
        """The problem as the local library has it."""
        return Problem(
            self.functions["init"],
            Partial(self.functions["inner_loss"], self.data),
            Partial(self.functions["outer_loss"], self.data),
            self.functions["schedule"],
        )

    def export(self, **changes):
        names = ("init", "inner_loss", "outer_loss", "schedule")
        functions = {name: changes.pop(name, self.functions.get(name)) for name in names}
        options = {"num_steps": STEPS, "data": self.data, "metrics": self.functions.get("metrics")} | changes
        return export_problem(*functions.values(), options.pop("hyper", self.hyper), **options)


def outputs(params, inputs):
    """A hidden state that reads the sequence, and one number read from it."""

    def cell(hidden, at_once):
        return jnp.tanh(hidden @ params["hidden"] + at_once @ params["inputs"]), None

    hidden = jnp.zeros((len(inputs), WIDTH), inputs.dtype)
    return (jax.lax.scan(cell, hidden, inputs.swapaxes(0, 1))[0] @ params["output"])[:, 0]


def loss(params, inputs, labels):
    return jnp.mean(jnp.logaddexp(0, -(2 * labels - 1).astype(inputs.dtype) * outputs(params, inputs)))


def case(dtype=jnp.float32, dropout=False):
    def init(hyper, key):
        drawn, start = {}, 0
        numbers = jax.random.normal(key, sum(math.prod(shape) for shape in SHAPES.values()), dtype)
        for name, shape in SHAPES.items():
            part = numbers[start : start + math.prod(shape)].reshape(shape)
            drawn[name] = jnp.exp(hyper["log_scale"][name]).astype(dtype) * part
            start += part.size
        return drawn | {"output": drawn["output"] + hyper["output_start"].astype(dtype)}

    def inner_loss(data, params, hyper, step, key):
        start = step % (EXAMPLES // BATCH) * BATCH
        inputs, labels = (
            jax.lax.dynamic_slice_in_dim(data["train"][name], start, BATCH) for name in ("inputs", "labels")
        )
        if dropout:
            inputs = inputs * jax.random.bernoulli(key, 0.9, inputs.shape).astype(dtype)
        penalties = [
            jnp.exp(hyper["log_l2"][name]).astype(dtype) * jnp.sum(jnp.square(leaf))
            for name, leaf in params.items()
        ]
        return loss(params, inputs, labels) + sum(penalties)

    def outer_loss(data, params, hyper, key):
        smoothness = jnp.sum(jnp.square(hyper["output_start"])).astype(dtype)
        return loss(params, data["valid"]["inputs"], data["valid"]["labels"]) + 1e-3 * smoothness

    def schedule(hyper):
        return {"step_size": jnp.exp(hyper["log_step_size"]), "momentum": jax.nn.sigmoid(hyper["momentum"])}

    def metrics(data, params, hyper, key):
        right = (outputs(params, data["valid"]["inputs"]) > 0) == data["valid"]["labels"]
        return {"valid_accuracy": jnp.mean(right)}

    functions = {
        "init": init,
        "inner_loss": inner_loss,
        "outer_loss": outer_loss,
        "schedule": schedule,
        "metrics": metrics,
    }
    names = list(SHAPES)
    hyper = {
        "log_scale": {name: jnp.asarray(-1.0) for name in names},
        "output_start": jnp.full((WIDTH, 1), 0.1),
        "log_l2": {name: jnp.asarray(-5.0) for name in names},
        "log_step_size": jnp.full((STEPS, GROUPS), -1.0),
        "momentum": jnp.linspace(0, 2, STEPS),
    }
    rng = np.random.default_rng(0)
    data = {}
    for part in ("train", "valid"):
        inputs = rng.normal(size=(EXAMPLES, LENGTH, FEATURES))
        labels = (np.cumsum(inputs[..., 0], axis=1).max(axis=1) > 1).astype(np.int32)
        data[part] = {"inputs": jnp.asarray(inputs, dtype), "labels": jnp.asarray(labels)}
    return Case(functions, hyper, data)


def flat(hyper):
    """By the names that a program has for them."""
    return {
        ".".join(str(key.key) for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(hyper)
    }


def small():
    """A program of a few operations, loops among them, that is looked at in no time."""

    def squares(params):
        return jax.lax.fori_loop(0, 3, lambda number, total: total + jnp.sum(params["w"] ** 2), jnp.float32(0))

    functions = {
        "init": lambda hyper, key: {
            "w": hyper["start"].astype(jnp.float32) + jax.random.uniform(key, 2, jnp.float32)
        },
        "inner_loss": lambda params, hyper, step, key: (
            squares(params) * jnp.exp(hyper["log_l2"]).astype(jnp.float32)
        ),
        "outer_loss": lambda params, hyper, key: squares(params),
        "schedule": lambda hyper: {"step_size": jnp.exp(hyper["log_step_size"]), "momentum": 0.5},
    }
    hyper = {"start": jnp.ones(2), "log_l2": jnp.asarray(-1.0), "log_step_size": jnp.asarray(-2.0)}
    return Case(functions, hyper, {}).export(data=None)
