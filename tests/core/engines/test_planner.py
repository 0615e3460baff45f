"""The planner's table, its choice, and what it says where there is none."""

import math

import jax
import jax.numpy as jnp
import pytest

from core import Problem, automatic, checkpointed, hypergradient, plan, reversible, sgd, truncated, unrolled
from core.errors import InvalidProblem
from tests.core.engines.regression import make_hyper, make_problem, relative_errors

STEPS = 200


def arguments(problem=None, hyper=None):
    return {
        "problem": problem or make_problem(jnp.float32),
        "hyper": make_hyper(STEPS) if hyper is None else hyper,
        "optimizer": sgd(),
        "num_steps": STEPS,
        "key": jax.random.key(0),
    }


@pytest.fixture(scope="module")
def table():
    return plan(**arguments(), engines=[reversible(), unrolled(), checkpointed(), truncated(20)])


@pytest.mark.slow
def test_every_engine_has_a_row_with_time_and_memory(table):
    assert {one.name for one in table.predictions} == {"reversible", "unrolled", "checkpointed", "truncated"}
    assert all(one.seconds > 0 and one.memory.device_bytes > 0 and one.fits for one in table.predictions)
    assert [one.seconds for one in table.predictions] == sorted(one.seconds for one in table.predictions)


@pytest.mark.slow
def test_memory_is_in_the_order_that_theory_has(table):
    device = {one.name: one.memory.device_bytes for one in table.predictions}
    assert device["reversible"] < device["checkpointed"] < device["unrolled"]
    assert device["truncated"] < device["unrolled"]


@pytest.mark.slow
def test_an_engine_that_leaves_something_out_is_never_chosen():
    table = plan(**arguments(), engines=[truncated(20), reversible()])
    assert table.chosen.name == "reversible"


@pytest.mark.slow
def test_a_budget_leaves_out_what_does_not_fit(table):
    device = {one.name: one.memory.device_bytes for one in table.predictions}
    engines = [one.engine for one in table.predictions if one.name in ("reversible", "unrolled")]
    tight = plan(**arguments(), engines=engines, device_budget=(device["reversible"] + device["unrolled"]) // 2)
    assert tight.chosen.name == "reversible"
    with pytest.raises(InvalidProblem, match=r"no engine fits into 10 bytes .* the least is reversible"):
        _ = plan(**arguments(), engines=engines, device_budget=10).chosen


def test_the_first_engine_is_probed_in_any_case_and_others_as_long_as_there_is_time():
    table = plan(**arguments(), engines=[unrolled(), checkpointed()], seconds=0)
    assert table.chosen.name == "unrolled"
    (left,) = [one for one in table.predictions if one.name == "checkpointed"]
    assert (left.fits, left.remark) == (False, "there was no time to probe it")


@pytest.mark.slow
def test_automatic_takes_something_whole_that_fits(table):
    device = {one.name: one.memory.device_bytes for one in table.predictions}
    budget = device["checkpointed"] - 1
    result = hypergradient(**arguments(), engine=automatic(device_budget=budget))
    assert result.certificate.engine in {"reversible", "hybrid", "recursive"}
    oracle = hypergradient(**arguments(), engine=unrolled())
    assert max(relative_errors(result.gradient, oracle.gradient).values()) <= 1e-4  # of float32


def test_training_that_diverges_is_said_to_be_the_reason():
    diverging = Problem(
        init=lambda hyper, key: {"w": jnp.ones(3)},
        inner_loss=lambda params, hyper, step, key: -1e6 * jnp.sum(params["w"] ** 2),
        outer_loss=lambda params, hyper, key: jnp.sum(params["w"]),
        schedule=lambda hyper: {"step_size": hyper, "momentum": 0.9},
    )
    table = plan(**arguments(diverging, jnp.asarray(1.0)), engines=[reversible(), unrolled()])
    assert all("diverged" in one.remark and math.isnan(one.seconds) for one in table.predictions)
    with pytest.raises(InvalidProblem, match=r"no engine got through a probe.*diverged"):
        _ = table.chosen
