"""Units follow training where numbers grow, or shrink, by more than the bits of a float64."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import Problem, adam, hybrid, hypergradient, reversible, rmsprop, sgd, unrolled
from core.engines.training import train
from core.errors import FixedPointOverflow

STEPS = 60
KEY = jax.random.key(0)
ENGINES = [reversible(), hybrid(checkpoints=4)]


def problem(strength, w=lambda hyper: jnp.exp(hyper["start"]) * jnp.arange(1.0, 5.0) / 4, **schedule):
    """Training whose gradients have another strength in every step."""

    def inner_loss(params, hyper, step, key):
        return strength(step, key) * jnp.sum((params["w"] - 1) ** 2)

    return Problem(
        init=lambda hyper, key: {"w": w(hyper)},
        inner_loss=inner_loss,
        outer_loss=lambda params, hyper, key: jnp.sum(params["w"] ** 3),
        schedule=lambda hyper: {"step_size": hyper["step_size"], **schedule},
    )


def hyper(step_size):
    return {"start": jnp.asarray(-1.0), "step_size": jnp.asarray(step_size)}


def jump(by, at=40):
    return lambda step, key: jnp.where(step == at, by, 1.0)


def assert_agree(found, oracle, tolerance):
    assert found.certificate.exact
    assert float(found.value) == pytest.approx(float(oracle.value), rel=tolerance)
    for name, expected in oracle.gradient.items():
        np.testing.assert_allclose(found.gradient[name], expected, rtol=tolerance)


@pytest.mark.parametrize("by", [pytest.param(1e5, marks=pytest.mark.slow), 1e12])
@pytest.mark.parametrize(
    "engine",
    [ENGINES[0], *(pytest.param(one, marks=pytest.mark.slow) for one in ENGINES[1:])],
    ids=lambda engine: engine.name,
)
@pytest.mark.parametrize("optimizer", [adam(), rmsprop()], ids=lambda optimizer: optimizer.name)
def test_second_moments_that_grow_keep_what_they_were_before(optimizer, engine, by):
    """A unit that was coarse from the start would have rounded the early ones away."""
    arguments = {"optimizer": optimizer, "num_steps": STEPS, "key": KEY}
    grows, given = problem(jump(by), epsilon=1e-3), hyper(0.02)
    found = hypergradient(grows, given, engine=engine, **arguments)
    assert_agree(found, hypergradient(grows, given, engine=unrolled(), **arguments), 1e-7)
    changes = found.certificate.unit_changes
    assert {change["step"] for change in changes} == {40}
    assert all(change["bits"] > 0 for change in changes)
    assert "square" in {change["field"] for change in changes} or optimizer.name == "rmsprop"
    if engine.name == "reversible":
        np.testing.assert_array_equal(found.params["w"], train(grows, given, **arguments)["w"])


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_a_memory_that_leaves_its_range_for_a_while_has_not_diverged(engine):
    """It comes back before anyone looks; the step by step run finds it."""
    arguments = {"optimizer": sgd(), "num_steps": STEPS, "key": KEY}
    grows, given = problem(jump(1e3), momentum=0.5), hyper(2e-4)
    found = hypergradient(grows, given, engine=engine, **arguments)
    assert_agree(found, hypergradient(grows, given, engine=unrolled(), **arguments), 1e-10)
    assert {(change["step"], change["field"]) for change in found.certificate.unit_changes} == {(40, "velocity")}


def test_no_clock_decides_what_is_noticed():
    """The second time a program runs its chunks are longer."""
    arguments = {"optimizer": sgd(), "num_steps": 200, "key": KEY}
    grows, given = problem(jump(1e3, at=43), momentum=0.3), hyper(2e-4)
    first, second, third = (np.asarray(train(grows, given, **arguments)["w"]) for _ in range(3))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, third)


@pytest.mark.parametrize("size", [*(pytest.param(size, marks=pytest.mark.slow) for size in (1e-3, 1e-6)), 1e-12])
@pytest.mark.parametrize("optimizer", [adam(), rmsprop()], ids=lambda optimizer: optimizer.name)
def test_a_group_that_is_silent_at_first_gets_its_unit_when_it_speaks(optimizer, size):
    def inner_loss(params, hyper, step, key):
        late = jnp.where(step < 10, 0.0, size) * jnp.sum(jnp.sin(3 * params["late"] + step))
        return late + jnp.sum(jnp.sin(3 * params["w"] + step))

    silent = Problem(
        init=lambda hyper, key: {"late": jnp.linspace(0.1, 1, 4), "w": jnp.exp(hyper["start"]) * jnp.ones(3)},
        inner_loss=inner_loss,
        outer_loss=lambda params, hyper, key: jnp.sum(params["late"] ** 2) + jnp.sum(params["w"] ** 2),
        schedule=lambda hyper: {"step_size": hyper["step_size"], "epsilon": 1e-20},
    )
    arguments = {"optimizer": optimizer, "num_steps": 150, "key": KEY}
    found = hypergradient(silent, hyper(1e-3), engine=reversible(), **arguments)
    assert_agree(found, hypergradient(silent, hyper(1e-3), engine=unrolled(), **arguments), 1e-6)


def test_what_comes_in_bursts_does_not_start_over_at_each():
    def inner_loss(params, hyper, step, key):
        return jnp.where(step % 150 == 0, 1.0, 0.0) * jnp.sum(jnp.sin(params["w"] + step))

    bursts = replace(problem(jump(1.0), decay=0.8, epsilon=1e-8), inner_loss=inner_loss)
    found = hypergradient(bursts, hyper(1e-3), optimizer=rmsprop(), engine=reversible(), num_steps=1500, key=KEY)
    assert found.certificate.exact
    rooms = {(change["field"], change["step"]) for change in found.certificate.unit_changes if change["bits"] > 0}
    assert max(sum(name == field for field, _ in rooms) for name in ("square", "moment")) <= 3


def test_growth_that_goes_on_is_followed():
    """By 1e6 and again by 1e6, and no further than that."""
    arguments = {"optimizer": adam(), "num_steps": STEPS, "key": KEY}
    given = hyper(0.02)
    grows = problem(lambda step, key: 10.0 ** (6 * (step >= 20) + 6.0 * (step >= 40)), epsilon=1e-3)
    found = hypergradient(grows, given, engine=reversible(), **arguments)
    assert_agree(found, hypergradient(grows, given, engine=unrolled(), **arguments), 1e-7)
    assert {change["step"] for change in found.certificate.unit_changes} == {20, 40}


def test_training_that_diverges_is_still_told():
    with pytest.raises(FixedPointOverflow, match="lower the step size"):
        hypergradient(
            problem(jump(1e9, at=5), momentum=0.5),
            hyper(0.1),
            optimizer=sgd(),
            engine=reversible(),
            num_steps=STEPS,
            key=KEY,
        )


@pytest.mark.parametrize("size", [1e-6, 1e-10, 1e-20])
def test_tiny_weights_keep_their_digits(size):
    tiny = Problem(
        init=lambda hyper, key: {"w": size * jnp.exp(hyper["start"]) * jnp.arange(1.0, 5.0)},
        inner_loss=lambda params, hyper, step, key: (
            0.5 * jnp.sum((params["w"] - size) ** 2 * jnp.arange(1.0, 5.0))
        ),
        outer_loss=lambda params, hyper, key: jnp.sum((params["w"] / size) ** 3),
        schedule=lambda hyper: {"step_size": hyper["step_size"], "momentum": 0.9},
    )
    arguments = {"optimizer": sgd(), "num_steps": STEPS, "key": KEY}
    found = hypergradient(tiny, hyper(0.05), engine=reversible(), **arguments)
    assert_agree(found, hypergradient(tiny, hyper(0.05), engine=unrolled(), **arguments), 1e-7)


def test_weights_that_grow_from_nothing_are_followed():
    """From 1e-12 to one."""
    grows = Problem(
        init=lambda hyper, key: {"w": 1e-12 * jnp.exp(hyper["start"]) * jnp.arange(1.0, 5.0)},
        inner_loss=lambda params, hyper, step, key: -jnp.sum(params["w"] ** 2) * (jnp.max(params["w"]) < 1),
        outer_loss=lambda params, hyper, key: jnp.sum(params["w"] ** 3),
        schedule=lambda hyper: {"step_size": hyper["step_size"], "momentum": 0.5},
    )
    arguments = {"optimizer": sgd(), "num_steps": 120, "key": KEY}
    found = hypergradient(grows, hyper(0.2), engine=reversible(), **arguments)
    assert_agree(found, hypergradient(grows, hyper(0.2), engine=unrolled(), **arguments), 1e-6)
    assert float(found.params["w"].max()) > 1
    assert "position" in {change["field"] for change in found.certificate.unit_changes}


def shrinking(optimizer):
    """Gradients fall by 1e-8, their squares by 1e-16; the steps taken stay as large as they were."""

    def inner_loss(params, hyper, step, key):
        return 10.0 ** (-8 * jnp.minimum(step / 300, 1.0)) * jnp.sum(jnp.sin(3 * params["w"] + step))

    memories = {"b2": 0.9} if optimizer.name == "adam" else {"decay": 0.9}
    falls = replace(problem(jump(1.0), epsilon=1e-30, **memories), inner_loss=inner_loss)
    return falls, hyper(1e-3), {"optimizer": optimizer, "num_steps": 600, "key": KEY}


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize("optimizer", [adam(), rmsprop()], ids=lambda optimizer: optimizer.name)
def test_second_moments_that_shrink_are_followed(optimizer, engine):
    falls, given, arguments = shrinking(optimizer)
    found = hypergradient(falls, given, engine=engine, **arguments)
    assert_agree(found, hypergradient(falls, given, engine=unrolled(), **arguments), 1e-5)
    assert all(change["bits"] < 0 and change["step"] % 64 == 0 for change in found.certificate.unit_changes)
    assert found.certificate.unit_changes


@pytest.mark.parametrize("side_by_side", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_several_runs_are_followed_each_for_itself(side_by_side):
    """Gradients jump in a step that depends on the run's key."""

    def inner_loss(params, hyper, step, key):
        at = 20 + jnp.floor(20 * jax.lax.stop_gradient(params["at"][0]))
        return jnp.where(step == at, 1e6, 1.0) * jnp.sum((params["w"] - hyper["to"]) ** 2)

    many = Problem(
        init=lambda hyper, key: {"w": jnp.arange(1.0, 5.0) / 4, "at": jax.random.uniform(key, (1,))},
        inner_loss=inner_loss,
        outer_loss=lambda params, hyper, key: jnp.sum(params["w"] ** 3),
        schedule=lambda hyper: {"step_size": hyper["step_size"], "epsilon": 1e-3},
    )
    given = {"to": jnp.asarray(1.0), "step_size": jnp.asarray(0.02)}
    arguments = {"optimizer": adam(), "num_steps": STEPS}
    keys = jax.random.split(KEY, 3)
    together = hypergradient(many, given, engine=reversible(side_by_side=side_by_side), key=keys, **arguments)
    alone = [hypergradient(many, given, engine=reversible(), key=key, **arguments) for key in keys]
    assert together.certificate.exact
    assert len({change["step"] for one in alone for change in one.certificate.unit_changes}) >= 2
    mean = np.mean([one.gradient["to"] for one in alone])
    np.testing.assert_allclose(together.gradient["to"], mean, rtol=0 if side_by_side == 1 else 1e-9)


def test_without_looks_second_moments_that_shrink_are_rounded_away(monkeypatch):
    """The negative control."""
    monkeypatch.setattr("core.engines.training.LOOK_EVERY", 10**6)
    falls, given, arguments = shrinking(adam())
    assert bool(jnp.isfinite(hypergradient(falls, given, engine=unrolled(), **arguments).value))
    with pytest.raises(FixedPointOverflow):
        hypergradient(falls, given, engine=reversible(), **arguments)
