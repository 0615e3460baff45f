"""Whether a training is exact, diverged, or not deterministic is told apart, and what is called exact is right."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import Problem, adam, checkpointed, hypergradient, reversible, rmsprop, sgd, unrolled
from core.errors import FixedPointOverflow, UncertifiedGradient
from core.reversal.moves import Number, add, decay, real, subtract, undecay
from core.reversal.optimizers import Optimizer, Range
from core.reversal.segments import rewind
from tests.core.engines.regression import drifting_problem, make_hyper, make_problem, relative_errors

KEY = jax.random.key(0)


def run(problem, hyper, engine=None, optimizer=None, steps=100, key=KEY):
    return hypergradient(problem, hyper, optimizer=optimizer or sgd(), num_steps=steps, key=key, engine=engine)


def quadratic(schedule, loss=lambda params, hyper, step, key: jnp.sum(params["w"] ** 2), start=1.0):
    return Problem(
        init=lambda hyper, key: {"w": jnp.full(3, start)},
        inner_loss=loss,
        outer_loss=lambda params, hyper, key: jnp.sum(params["w"] ** 2),
        schedule=schedule,
    )


def test_a_divergence_long_after_the_start_is_named_with_its_step():
    """Buffers that nobody spilled used to disturb the run that looks for the step."""

    def loss(params, hyper, step, key):
        return jnp.where(step < 2500, jnp.sum((params["w"] - 2) ** 2), -50 * jnp.sum(params["w"] ** 2))

    problem = quadratic(lambda hyper: {"step_size": hyper, "momentum": 0.9}, loss)
    steps = []
    for engine in (reversible(), unrolled()):
        with pytest.raises(FixedPointOverflow) as caught:
            run(problem, jnp.asarray(0.1), engine, steps=3000)
        steps.append(caught.value.step)
    assert steps[0] == pytest.approx(steps[1], abs=1)  # floats and fixed point may leave a step apart
    assert steps[1] > 2500


@pytest.mark.slow
def test_a_loss_that_is_not_deterministic_is_not_taken_for_divergence_in_a_long_run():
    hyper = make_hyper(1500)
    with pytest.raises(UncertifiedGradient, match="deterministic"):
        run(drifting_problem(), hyper, steps=1500)
    fallen = run(drifting_problem(), hyper, reversible(fallback=checkpointed()), steps=1500)
    assert (fallen.certificate.exact, fallen.certificate.engine) == (False, "checkpointed")


def test_a_gradient_that_ends_in_a_product_repeats_its_bits():
    """XLA joins such a product to the sum that follows it, in one program and not in the other, barriers or not."""
    noise = jax.random.normal(jax.random.key(5), (7,), jnp.float64)

    def loss(params, hyper, step, key):
        shift = jnp.sin(3 * params["w"]) + 0.1 * noise * params["w"]
        return jnp.sum(shift * jax.random.normal(key, (7,)))

    problem = Problem(
        init=lambda hyper, key: {"w": jax.random.normal(key, (7,), jnp.float64)},
        inner_loss=loss,
        outer_loss=lambda params, hyper, key: jnp.sum(params["w"] ** 2),
        schedule=lambda hyper: {"step_size": hyper, "momentum": 0.0},
    )
    for seed in range(20):
        assert run(problem, jnp.asarray(0.01), steps=500, key=jax.random.key(seed)).certificate.exact


class Anchored(NamedTuple):
    position: Number
    velocity: Number
    anchor: Number


def elastic():
    """Momentum that is pulled back to where training started, which the state remembers."""

    def init(weights):
        return Anchored(weights, jnp.zeros_like(weights), weights)

    def step(state, gradient, hypers):
        velocity = add(decay(state.velocity, hypers["momentum"]), gradient)
        position = subtract(state.position, hypers["step_size"] * real(velocity))
        return Anchored(add(position, -0.01 * real(state.anchor)), velocity, state.anchor)

    def unstep(state, hypers):
        position = subtract(state.position, -0.01 * real(state.anchor))
        position = add(position, hypers["step_size"] * real(state.velocity))
        gradient = yield position
        velocity = undecay(subtract(state.velocity, gradient), hypers["momentum"])
        return Anchored(position, velocity, state.anchor)

    return Optimizer("elastic", {"step_size": Range(), "momentum": Range(0.0, 1.0)}, init, step, unstep)


def test_initial_weights_count_in_every_field_that_they_go_into():
    problem = Problem(
        init=lambda hyper, key: {"w": hyper["start"]},
        inner_loss=lambda params, hyper, step, key: jnp.sum(jnp.cos(params["w"])),
        outer_loss=lambda params, hyper, key: jnp.sum(params["w"] ** 2),
        schedule=lambda hyper: {"step_size": 0.05, "momentum": 0.8},
    )
    hyper = {"start": jnp.array([0.3, -0.7, 1.1])}
    exact, oracle = (run(problem, hyper, engine, elastic(), 50) for engine in (reversible(), unrolled()))
    assert exact.certificate.exact
    assert max(relative_errors(exact.gradient, oracle.gradient).values()) <= 1e-9


@pytest.mark.parametrize("optimizer", [adam(), rmsprop()], ids=["adam", "rmsprop"])
@pytest.mark.parametrize("ratio", [1e-2, 1e-4, 1e-6])
def test_weights_of_one_group_may_have_gradients_of_very_different_sizes(optimizer, ratio):
    """With one unit for all, second moments of the small ones would be rounded away, and they would race."""
    sizes = jnp.array([1.0, ratio])

    def loss(params, hyper, step, key):
        return jnp.sum(sizes * jnp.sin(params["w"] + jax.random.normal(key, (2,))))

    problem = quadratic(lambda hyper: {"step_size": hyper, "epsilon": 1e-12}, loss)
    problem = Problem(lambda hyper, key: {"w": jnp.ones(2)}, loss, problem.outer_loss, problem.schedule)
    exact, oracle = (
        run(problem, jnp.full(500, 0.01), engine, optimizer, 500) for engine in (reversible(), unrolled())
    )
    np.testing.assert_allclose(exact.params["w"], oracle.params["w"], rtol=0, atol=1e-7)
    error = jnp.linalg.norm(exact.gradient - oracle.gradient) / jnp.linalg.norm(oracle.gradient)
    assert float(error) <= 1e-6


def test_groups_that_outgrow_their_units_one_after_another_are_not_diverged():
    goals = {"a": 30.0, "b": 60.0, "c": 100.0, "d": 200.0}
    speeds = {"a": 0.1, "b": 0.03, "c": 0.01, "d": 0.003}
    problem = Problem(
        init=lambda hyper, key: {name: jnp.full(2, 0.1) for name in goals},
        inner_loss=lambda params, hyper, step, key: sum(
            speeds[name] * jnp.sum((params[name] - goal) ** 2) for name, goal in goals.items()
        ),
        outer_loss=lambda params, hyper, key: sum(jnp.sum(leaf) for leaf in params.values()),
        schedule=lambda hyper: {"step_size": hyper, "momentum": 0.9},
    )
    exact, oracle = (run(problem, jnp.asarray(1.0), engine, steps=800) for engine in (reversible(), unrolled()))
    assert exact.certificate.exact
    assert float(exact.gradient) == pytest.approx(float(oracle.gradient), rel=1e-6)


def test_sums_over_steps_are_taken_in_float64_whatever_the_precision_of_hyper():
    problem = Problem(
        init=lambda hyper, key: {"w": jnp.zeros(())},
        inner_loss=lambda params, hyper, step, key: hyper.astype(jnp.float64) * params["w"],
        outer_loss=lambda params, hyper, key: params["w"],
        schedule=lambda hyper: {"step_size": 0.001, "momentum": 0.0},
    )
    found = run(problem, jnp.asarray(1.0, jnp.bfloat16), steps=3000).gradient
    assert found.dtype == jnp.bfloat16
    assert float(found) == pytest.approx(-3.0, rel=0.01)


@pytest.mark.slow
def test_stretches_of_zero_momentum_share_compilations():
    momentum = np.full(60, 0.5)
    start = 0
    for length in (3, 4, 5, 6, 7, 8):
        momentum[start : start + length] = 0.0
        start += length + 2
    rewind.clear_cache()
    problem = make_problem(schedule=lambda hyper: {"step_size": 0.01, "momentum": momentum})
    assert run(problem, make_hyper(60), steps=60).certificate.exact
    assert rewind._cache_size() <= 4  # no tape, and tapes of 1 (the first step), 4 and 8 steps


def test_a_group_without_weights_takes_part():
    problem = Problem(
        init=lambda hyper, key: {"w": jnp.ones(3), "none": jnp.zeros((3, 0))},
        inner_loss=lambda params, hyper, step, key: jnp.sum(params["w"] ** 2) + jnp.sum(params["none"]),
        outer_loss=lambda params, hyper, key: jnp.sum(params["w"]),
        schedule=lambda hyper: {
            "step_size": hyper,
            "momentum": {"w": jnp.full(3, 0.5), "none": jnp.zeros((3, 0))},
        },
    )
    exact, oracle = (run(problem, jnp.full(20, 0.01), engine, steps=20) for engine in (reversible(), unrolled()))
    np.testing.assert_allclose(exact.gradient, oracle.gradient, rtol=1e-9)
