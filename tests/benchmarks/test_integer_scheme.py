"""The paper's own scheme: a baseline must be exact where its paper says so, or ours is measured against a straw man."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import integer_scheme
from benchmarks.integer_scheme import (
    DENOMINATOR,
    divide,
    integer_hypergradient,
    multiply,
    numerators_of,
    plan_spills,
)
from core.engines import Problem, hypergradient, sgd, unrolled

jax.config.update("jax_enable_x64", True)

KEY = jax.random.key(0)
STEPS = 200
INPUTS = np.random.default_rng(7).normal(size=(32, 5))
TARGETS = np.sin(INPUTS[:, 0])


def predict(params, inputs):
    return jnp.tanh(inputs @ params["hidden"]) @ params["out"]


@cache  # what is compiled is found by the problem's functions
def make_problem(dtype):
    def init(hyper, key):
        first, second = jax.random.split(key)
        return {
            "hidden": (hyper["init_scale"][0] * jax.random.normal(first, (5, 7))).astype(dtype),
            "out": (hyper["init_scale"][1] * jax.random.normal(second, (7,))).astype(dtype),
        }

    def inner_loss(params, hyper, step, key):
        rows = jax.random.randint(key, (16,), 0, len(INPUTS))
        residual = predict(params, jnp.asarray(INPUTS, dtype)[rows]) - jnp.asarray(TARGETS, dtype)[rows]
        return jnp.mean(residual**2) + hyper["penalty"].astype(dtype) * jnp.sum(params["hidden"] ** 2)

    def outer_loss(params, hyper, key):
        return jnp.mean((predict(params, jnp.asarray(INPUTS, dtype)) - jnp.asarray(TARGETS, dtype)) ** 2)

    def schedule(hyper):
        return {"step_size": hyper["step_size"], "momentum": hyper["momentum"]}

    return Problem(init, inner_loss, outer_loss, schedule)


def make_hyper(steps=STEPS):
    """Momenta that are fractions n/d, so that rounding them to one does not tell the two gradients apart."""
    rng = np.random.default_rng(3)
    return {
        "init_scale": jnp.array([0.4, 0.6]),
        "penalty": jnp.array(0.01),
        "step_size": jnp.asarray(rng.uniform(0.1, 0.4, (steps, 2))),
        "momentum": jnp.asarray(np.rint(rng.uniform(0.3, 0.999, (steps, 2)) * DENOMINATOR) / DENOMINATOR),
    }


def relative_errors(left, right):
    return {
        name: float(jnp.linalg.norm(left[name] - right[name]) / jnp.linalg.norm(right[name])) for name in right
    }


def test_dividing_undoes_multiplying_bit_for_bit():
    rng = np.random.default_rng(0)
    value = jnp.asarray(rng.integers(-(2**62), 2**62, 10_000))
    buffer = jnp.asarray(rng.integers(0, 2**46, 10_000))
    for numerator in (1, 3, 58_982, DENOMINATOR - 1, DENOMINATOR):
        after = multiply(value, buffer, jnp.asarray(numerator))
        before = divide(*after, jnp.asarray(numerator))
        np.testing.assert_allclose(after[0], value * (numerator / DENOMINATOR), rtol=0, atol=DENOMINATOR)
        np.testing.assert_array_equal(before[0], value)
        np.testing.assert_array_equal(before[1], buffer)


@pytest.mark.parametrize("steps", [1, STEPS])
def test_backward_recovers_the_initial_state_bit_for_bit(steps):
    hyper = make_hyper(steps)
    result = integer_hypergradient(make_problem(jnp.float32), hyper, steps, KEY)
    bound = float(jnp.mean(jnp.log2(1 / hyper["momentum"]) @ jnp.array([35, 7]) / 42))
    assert result.mismatched_bits == 0
    assert result.stored_bits_per_param_step < 1.1 * bound + 20 / steps  # the digits of the step taken last


def test_the_longer_run_spills():
    segments = plan_spills(numerators_of(make_hyper()["momentum"]))
    assert sum(len(segment.spills) for segment in segments) >= 4
    assert [segment.start for segment in segments[1:]] == [segment.stop for segment in segments[:-1]]


def test_hypergradient_matches_unrolled_autodiff():
    # weights are rounded to 2**-52, and every step's remainder moves the velocity by up to 2**-36
    problem, hyper = make_problem(jnp.float64), make_hyper()
    result = integer_hypergradient(problem, hyper, STEPS, KEY)
    oracle = hypergradient(problem, hyper, optimizer=sgd(), num_steps=STEPS, key=KEY, engine=unrolled())
    errors = relative_errors(result.gradient, oracle.gradient)
    assert max(errors.values()) < 1e-8
    assert result.mismatched_bits == 0
    np.testing.assert_allclose(result.value, oracle.value, rtol=1e-9)


def test_momentum_is_rounded_to_a_fraction():
    problem, hyper = make_problem(jnp.float64), make_hyper() | {"momentum": jnp.full((STEPS, 2), 0.9, jnp.float64)}
    result = integer_hypergradient(problem, hyper, STEPS, KEY)
    oracle = hypergradient(problem, hyper, optimizer=sgd(), num_steps=STEPS, key=KEY, engine=unrolled())
    errors = relative_errors(result.gradient, oracle.gradient)
    assert 1e-7 < max(errors.values()) < 1e-3


@pytest.fixture
def recompiled():
    """Nothing compiled before or within the test is used on the other side."""
    integer_scheme._advance.clear_cache()
    yield
    integer_scheme._advance.clear_cache()


@pytest.mark.usefixtures("recompiled")
def test_dropping_the_remainder_breaks_recovery(monkeypatch):
    def lossy(value, buffer, numerator):
        value, buffer = multiply(value, buffer, numerator)
        return value, buffer - buffer % DENOMINATOR

    monkeypatch.setattr(integer_scheme, "multiply", lossy)
    assert integer_hypergradient(make_problem(jnp.float32), make_hyper(), STEPS, KEY).mismatched_bits > 1000


@pytest.mark.parametrize("momentum", [0.0, 2.0**-18, 1.1])
def test_a_momentum_that_is_no_fraction_is_refused(momentum):
    hyper = make_hyper(5) | {"momentum": jnp.full((5, 2), momentum)}
    with pytest.raises(ValueError, match="every momentum must be in"):
        integer_hypergradient(make_problem(jnp.float32), hyper, 5, KEY)
