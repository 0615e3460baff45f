import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from core import Problem, meta_optimize, sgd
from core.errors import InvalidProblem, NotFinite
from core.meta_optimization import initial_state

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


@pytest.mark.slow
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


STATE = initial_state(HYPER, optax.adam(0.04))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_iterations": 0}, "num_iterations is 0; it must be at least 1"),
        ({"num_iterations": -1}, "num_iterations is -1"),
        ({"num_iterations": 2.5}, r"num_iterations is 2\.5, a float; give an int"),
        ({"num_iterations": True}, "num_iterations is True, a bool"),
        ({"norm_may_grow": -1}, "norm_may_grow is -1; give a number above 0, or None"),
        ({"norm_may_grow": 0}, "norm_may_grow is 0"),
        ({"norm_may_grow": float("nan")}, "norm_may_grow is nan"),
        ({"norm_may_grow": "10"}, "norm_may_grow is '10'"),
        ({"norm_may_grow": True}, "norm_may_grow is True"),
        ({"meta_optimizer": "adam"}, r"meta_optimizer is 'adam'; give a transformation of optax, like optax\.adam"),
        ({"meta_optimizer": optax.adam}, r"meta_optimizer is <function.*; call it, like optax\.adam"),
        ({"meta_optimizer": sgd()}, "meta_optimizer is Optimizer.*; give a transformation of optax"),
        ({"problem": lambda: PROBLEM}, r"problem takes \(\), but is called with \(iteration\)"),
        ({"keys": lambda: None}, r"keys takes \(\), but is called with \(iteration\)"),
        ({"look": 3}, r"look is 3; give a function of \(state, diverged\)"),
        ({"resume_from": "checkpoint"}, "resume_from is of type str; give the `state` of a MetaIteration"),
        ({"resume_from": ()}, "resume_from is of type tuple"),
        ({"resume_from": tuple(STATE)}, "resume_from is of type tuple"),
        ({"resume_from": STATE._replace(iteration="3")}, "resume_from.iteration is '3', a str"),
        ({"resume_from": STATE._replace(iteration=-1)}, "resume_from.iteration is -1"),
        ({"resume_from": STATE._replace(hyper={"log_step": jnp.ones(3)})}, r"resume_from.hyper is laid out as .*\(3,\)"),
        ({"resume_from": STATE._replace(hyper=jnp.ones(10))}, "resume_from.hyper is laid out as"),
        ({"resume_from": STATE, "meta_optimizer": optax.sgd(0.1)}, "resume_from.optimizer_state .*; resume with"),
        ({"resume_from": initial_state({"log_step": jnp.ones(3)}, optax.adam(0.1))._replace(hyper=HYPER)}, "optimizer_state"),
    ],
)  # fmt: skip
def test_arguments_are_checked_at_once(change, message):
    """Before the first meta-iteration is asked for."""
    arguments = {"problem": PROBLEM, "hyper": HYPER} | ARGUMENTS | change
    with pytest.raises(InvalidProblem, match=message):
        meta_optimize(**arguments)


def test_what_is_no_problem_or_key_is_named_as_by_hypergradient():
    with pytest.raises(InvalidProblem, match="problem is 3; give a Problem"):
        next(meta_optimize(3, HYPER, **ARGUMENTS))
    with pytest.raises(InvalidProblem, match="key is None"):
        learn(keys=None)


def test_the_state_takes_the_place_of_hyper():
    state = learn(num_iterations=1)[0].state
    with_it, without = learn(resume_from=state), list(meta_optimize(PROBLEM, None, resume_from=state, **ARGUMENTS))
    np.testing.assert_array_equal(with_it[-1].hyper["log_step"], without[-1].hyper["log_step"])


def test_the_norm_of_large_float32_gradients_is_recorded():
    steep = Problem(
        PROBLEM.init,
        PROBLEM.inner_loss,
        lambda params, hyper, key: 1e30 * jnp.mean(hyper["log_step"]),
        PROBLEM.schedule,
    )
    hyper = {"log_step": jnp.full(10, -3.0, jnp.float32)}
    assert next(meta_optimize(steep, hyper, **ARGUMENTS)).hypergradient_norm == pytest.approx(1e30 / 10**0.5)
