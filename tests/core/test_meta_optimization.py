import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from core import Problem, meta_optimize
from core.errors import InvalidProblem, NotFinite

PROBLEM = Problem(
    init=lambda hyper, key: {"w": 1 + 0.1 * jax.random.normal(key, (3,))},
    inner_loss=lambda params, hyper, step, key: 0.5 * jnp.sum(params["w"] ** 2),
    outer_loss=lambda params, hyper, key: jnp.sum(params["w"] ** 2),
    schedule=lambda hyper: {"step_size": jnp.exp(hyper["log_step"]), "momentum": 0.5},
)
HYPER = {"log_step": jnp.full(10, -3.0)}
ARGUMENTS = {"num_steps": 10, "num_iterations": 8, "keys": lambda i: jax.random.key(i)}


def learn(**changes):
    return list(meta_optimize(PROBLEM, HYPER, **ARGUMENTS | changes))


def test_descent_lowers_the_outer_loss():
    records = learn(num_iterations=30, meta_optimizer=optax.adam(0.1))
    assert records[-1].result.value < 0.1 * records[0].result.value
    assert all(one.result.certificate.exact for one in records)


def test_the_best_so_far_is_marked():
    values = [float(one.result.value) for one in learn()]
    marked = [one.is_best for one in learn()]
    assert marked == [value < min(values[:index], default=np.inf) for index, value in enumerate(values)]
    state = learn()[-1].state
    assert (state.best_iteration, state.best_value) == (int(np.argmin(values)), min(values))


def test_it_is_deterministic():
    for one, other in zip(learn(), learn(), strict=True):
        np.testing.assert_array_equal(one.hyper["log_step"], other.hyper["log_step"])


@pytest.mark.parametrize("at", [1, 5])
def test_resuming_gives_the_bits_of_an_uninterrupted_run(at):
    whole = learn()
    resumed = learn(resume_from=whole[at - 1].state)
    assert [one.iteration for one in resumed] == list(range(at, 8))
    np.testing.assert_array_equal(resumed[-1].state.hyper["log_step"], whole[-1].state.hyper["log_step"])


def test_fixed_keys_repeat_a_run():
    records = learn(keys=jax.random.key(5), meta_optimizer=optax.sgd(0.0))
    assert len({float(one.result.value) for one in records}) == 1


def test_it_stops_when_the_norm_grows_and_keeps_what_was_before():
    def keys(iteration):
        return jax.random.key(iteration)

    growing = Problem(
        PROBLEM.init,
        PROBLEM.inner_loss,
        lambda params, hyper, key: jnp.sum(params["w"] ** 2) * jnp.exp(-5 * jnp.sum(hyper["log_step"] + 3)),
        PROBLEM.schedule,
    )
    arguments = {"num_steps": 10, "num_iterations": 50, "keys": keys, "norm_may_grow": 10}

    def descend(**changes):
        return list(meta_optimize(growing, HYPER, meta_optimizer=optax.sgd(-0.05), **arguments | changes))

    records = descend()
    assert len(records) < 50
    assert records[-1].hypergradient_norm > 10 * records[0].hypergradient_norm
    np.testing.assert_array_equal(records[-1].state.hyper["log_step"], records[-1].hyper["log_step"])
    assert descend(resume_from=records[-1].state) == []


def test_an_outer_loss_that_is_not_a_number_is_an_error_and_never_the_best():
    def outer_loss(params, hyper, key):
        return jnp.where(jnp.sum(hyper["log_step"]) < -31, jnp.nan, 1.0) * jnp.sum(params["w"] ** 2)

    breaking = Problem(PROBLEM.init, PROBLEM.inner_loss, outer_loss, PROBLEM.schedule)
    yielded = []
    with pytest.raises(NotFinite, match="outer loss is nan"):
        yielded.extend(meta_optimize(breaking, HYPER, meta_optimizer=optax.sgd(-1.0), **ARGUMENTS))
    assert all(np.isfinite(float(one.result.value)) for one in yielded)


@pytest.mark.parametrize("change", [{"log_step": "fast"}, {"log_step": jnp.full(10, jnp.nan)}])
def test_hyperparameters_are_checked_before_anything_is_made_of_them(change):
    with pytest.raises(InvalidProblem, match="log_step.*finite floats"):
        next(meta_optimize(PROBLEM, HYPER | change, **ARGUMENTS))


def test_the_norm_of_large_float32_gradients_is_recorded():
    steep = Problem(
        PROBLEM.init,
        PROBLEM.inner_loss,
        lambda params, hyper, key: 1e30 * jnp.mean(hyper["log_step"]),
        PROBLEM.schedule,
    )
    hyper = {"log_step": jnp.full(10, -3.0, jnp.float32)}
    assert next(meta_optimize(steep, hyper, **ARGUMENTS)).hypergradient_norm == pytest.approx(1e30 / 10**0.5)
