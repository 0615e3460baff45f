"""A regression with every kind of hyperparameter, for tests of engines."""

import jax
import jax.numpy as jnp
import numpy as np

from core import Problem, hypergradient, sgd

STEPS = 120
INPUTS = jax.random.normal(jax.random.key(10), (64, 5), jnp.float64)
TARGETS = jnp.sin(INPUTS[:, 0])


def predict(params, inputs):
    return jnp.tanh(inputs @ params["hidden"]) @ params["out"]


def make_problem(dtype=jnp.float64, schedule=None):
    def init(hyper, key):
        first, second = jax.random.split(key)
        scale = jnp.exp(hyper["log_scale"]).astype(dtype)
        return {
            "hidden": scale[0] * jax.random.normal(first, (5, 7)).astype(dtype),
            "out": scale[1] * jax.random.normal(second, (7,)).astype(dtype),
        }

    def inner_loss(params, hyper, step, key):
        batch = jax.random.randint(key, (32,), 0, 64)
        residual = predict(params, INPUTS[batch].astype(dtype)) - TARGETS[batch].astype(dtype)
        penalty = jnp.sum(jnp.exp(hyper["log_l2"]).astype(dtype) * params["hidden"] ** 2)
        return jnp.mean(residual**2) + penalty

    def outer_loss(params, hyper, key):
        residual = predict(params, INPUTS.astype(dtype)) - TARGETS.astype(dtype)
        return jnp.mean(residual**2) + 1e-3 * jnp.sum(hyper["log_l2"] ** 2).astype(dtype)  # and on hyper itself

    def default_schedule(hyper):
        return {"step_size": jnp.exp(hyper["log_step"]), "momentum": jax.nn.sigmoid(hyper["logit_momentum"])}

    return Problem(init, inner_loss, outer_loss, schedule or default_schedule)


def make_hyper(steps=STEPS, dtype=jnp.float64):
    keys = jax.random.split(jax.random.key(3), 3)
    return {
        "log_scale": jnp.array([-1.0, -0.5], dtype),
        "log_l2": (-4 + jax.random.normal(keys[0], (5, 7))).astype(dtype),
        "log_step": (-1 + 0.3 * jax.random.normal(keys[1], (steps, 2))).astype(dtype),
        "logit_momentum": (1 + jax.random.normal(keys[2], (steps, 2))).astype(dtype),
    }


def run(problem, hyper, engine=None, steps=STEPS, key=None):
    key = jax.random.key(0) if key is None else key
    return hypergradient(problem, hyper, optimizer=sgd(), num_steps=steps, key=key, engine=engine)


def relative_errors(left, right):
    return {
        name: float(jnp.linalg.norm(left[name] - right[name]) / jnp.linalg.norm(right[name])) for name in right
    }


class Drifting:
    """A gradient that changes from call to call, as non-deterministic device operations do."""

    def __init__(self):
        self.calls = 0

    def __call__(self, params):
        self.calls += 1
        return np.float64(1 + 1e-9 * self.calls)


def drifting_problem():
    drift = Drifting()
    problem = make_problem()

    @jax.custom_jvp
    def noise(params):
        return jax.pure_callback(drift, jax.ShapeDtypeStruct((), jnp.float64), params)

    noise.defjvp(lambda primals, tangents: (noise(*primals), jnp.zeros(())))

    def inner_loss(params, hyper, step, key):
        return problem.inner_loss(params, hyper, step, key) * noise(params["out"])

    return Problem(problem.init, inner_loss, problem.outer_loss, problem.schedule)
