"""Every optimizer, every kind of hyperparameter, against float64 autodiff through unrolled training.

`pytest -s` prints the table of relative errors.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from core import Problem, adam, adamw, heavy_ball, hypergradient, nesterov, reversible, rmsprop, sgd, unrolled

STEPS = 60
TOLERANCE = 1e-8  # relative; the resolution of the state is 1e-12
INPUTS = jax.random.normal(jax.random.key(10), (64, 5), jnp.float64)
TARGETS = jnp.sin(INPUTS[:, 0])
OPTIMIZERS = {one().name: one() for one in (sgd, heavy_ball, nesterov, rmsprop, adam, adamw)}
TYPICAL = {
    "step_size": 0.02,
    "momentum": 0.85,
    "decay": 0.95,
    "b1": 0.85,
    "b2": 0.97,
    "epsilon": 1e-3,
    "weight_decay": 0.3,
}
HISTORICAL = {"b1", "b2"}  # act through their products over the steps: never one per weight
FAST = ("sgd", "adam")
PER = [
    "step and group",
    pytest.param("weight", marks=pytest.mark.slow),
    pytest.param("all", marks=pytest.mark.slow),
]


def predict(params, inputs):
    return jnp.tanh(inputs @ params["hidden"]) @ params["out"]


def make_problem(per, optimizer):
    def init(hyper, key):
        first, second = jax.random.split(key)
        scale = jnp.exp(hyper["init_scale"])
        return {
            "hidden": scale[0] * jax.random.normal(first, (5, 7)),
            "out": scale[1] * jax.random.normal(second, (7,)) + hyper["initial_weights"],
        }

    def inner_loss(params, hyper, step, key):
        batch = jax.random.randint(key, (32,), 0, 64)
        residual = predict(params, INPUTS[batch] + hyper["inputs"][batch]) - TARGETS[batch]
        weights = jnp.exp(hyper["example_weights"][batch])
        return jnp.mean(weights * residual**2) + jnp.sum(jnp.exp(hyper["penalty"]) * params["hidden"] ** 2)

    def outer_loss(params, hyper, key):
        return jnp.mean((predict(params, INPUTS) - TARGETS) ** 2) + 1e-3 * jnp.sum(hyper["penalty"] ** 2)

    def schedule(hyper):
        return {name: hyper[name] for name in optimizer.hyperparameters}

    return Problem(init, inner_loss, outer_loss, schedule)


def make_hyper(per, optimizer):
    rng = np.random.default_rng(1)
    shapes = {"hidden": (5, 7), "out": (7,)}
    hyper = {
        "init_scale": np.array([-1.0, -0.5]),
        "initial_weights": 0.1 * rng.normal(size=7),
        "penalty": -4 + rng.normal(size=(5, 7)),
        "inputs": 0.1 * rng.normal(size=(64, 5)),
        "example_weights": 0.3 * rng.normal(size=64),
    }
    for name in optimizer.hyperparameters:

        def around(*shape, name=name):
            return TYPICAL[name] * rng.uniform(0.98, 1.02, shape)

        if per == "step and group" or (per == "weight" and name in HISTORICAL):
            hyper[name] = around(STEPS, 2)
        elif per == "weight":
            hyper[name] = {key: around(*shape) for key, shape in shapes.items()}
        else:
            hyper[name] = around()
    return jax.tree.map(jnp.asarray, hyper)


def norm(tree):
    return float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree))))


@pytest.fixture(scope="module")
def table():
    errors = {}
    yield errors
    kinds = sorted({kind for column in errors.values() for kind in column})
    printed = Table("hyperparameter", *errors, title="relative error to float64 unrolled autodiff")
    for kind in kinds:
        printed.add_row(kind, *(f"{column[kind]:.0e}" if kind in column else "" for column in errors.values()))
    Console(width=160).print(printed)


@pytest.mark.parametrize(
    "name",
    [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS],
)
@pytest.mark.parametrize("per", PER)
def test_every_hyperparameter_of_every_optimizer(table, name, per):
    optimizer = OPTIMIZERS[name]
    problem, hyper = make_problem(per, optimizer), make_hyper(per, optimizer)
    arguments = {"optimizer": optimizer, "num_steps": STEPS, "key": jax.random.key(0)}
    exact = hypergradient(problem, hyper, engine=reversible(), **arguments)
    oracle = hypergradient(problem, hyper, engine=unrolled(), **arguments)
    assert exact.certificate.exact
    for kind in hyper:
        error = norm(jax.tree.map(jnp.subtract, exact.gradient[kind], oracle.gradient[kind]))
        size = norm(oracle.gradient[kind])
        assert size > 0, kind
        row = f"{kind}, per {per}" if kind in optimizer.hyperparameters else kind
        table.setdefault(name, {})[row] = max(error / size, table.get(name, {}).get(row, 0.0))
        assert error <= TOLERANCE * size, kind


@pytest.mark.parametrize(
    "name", ["sgd", *(pytest.param(name, marks=pytest.mark.slow) for name in ("adam", "adamw"))]
)
def test_gradients_of_very_different_sizes_in_one_model(name):
    """From 1e-8 to 1e4: one unit for all would either overflow or round the smallest away."""
    sizes = jnp.array([1e-8, 1e-4, 1.0, 1e4])

    def inner_loss(params, hyper, step, key):
        noise = jax.random.normal(key, (4, 3))
        return sum(
            size * jnp.sum(jnp.sin(params[f"w{index}"] * (1 + 0.1 * noise[index])))
            for index, size in enumerate(sizes)
        )

    scaled = name in {"adam", "adamw", "rmsprop"}
    problem = Problem(
        init=lambda hyper, key: {f"w{index}": jnp.linspace(0.1, 1, 3) for index in range(4)},
        inner_loss=inner_loss,
        outer_loss=lambda params, hyper, key: sum(jnp.sum(leaf**2) for leaf in params.values()),
        schedule=lambda hyper: {"step_size": hyper["step_size"]} | ({} if scaled else {"momentum": 0.9}),
    )
    typical = jnp.full(4, 1e-2) if scaled else 1e-2 / sizes
    hyper = {"step_size": typical * jnp.ones((STEPS, 1))}
    arguments = {"optimizer": OPTIMIZERS[name], "num_steps": STEPS, "key": jax.random.key(0)}
    exact = hypergradient(problem, hyper, engine=reversible(), **arguments)
    oracle = hypergradient(problem, hyper, engine=unrolled(), **arguments)
    assert exact.certificate.exact
    assert len(set(exact.certificate.unit_exponents["moment" if scaled else "velocity"])) > 1
    found, expected = exact.gradient["step_size"], oracle.gradient["step_size"]
    errors = jnp.linalg.norm(found - expected, axis=0) / jnp.linalg.norm(expected, axis=0)
    print(f"{name}: relative error by group", np.asarray(errors))
    assert float(errors.max()) <= TOLERANCE


@pytest.mark.parametrize("name", ["rmsprop", "adam", pytest.param("adamw", marks=pytest.mark.slow)])
def test_dead_units_have_a_gradient_that_is_a_number(name):
    """Second moments of exactly zero, where the root's derivative is infinite."""
    problem = Problem(
        init=lambda hyper, key: {"live": jnp.ones(3), "dead": jnp.ones(2)},
        inner_loss=lambda params, hyper, step, key: jnp.sum(params["live"] ** 2) + 0 * jnp.sum(params["dead"]),
        outer_loss=lambda params, hyper, key: jnp.sum(params["live"] ** 2) + jnp.sum(params["dead"] ** 2),
        schedule=lambda hyper: {"step_size": hyper},
    )
    for engine in (reversible(), unrolled()):
        result = hypergradient(
            problem,
            jnp.full(9, 0.01),
            optimizer=OPTIMIZERS[name],
            num_steps=9,
            key=jax.random.key(0),
            engine=engine,
        )
        assert bool(jnp.isfinite(result.gradient).all())
        assert float(jnp.linalg.norm(result.gradient)) > 0
