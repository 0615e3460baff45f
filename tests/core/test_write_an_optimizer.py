"""The how-to page on writing an optimizer: its code runs, and the mistakes it lists lead to what it says."""

import re
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import Problem, hypergradient, reversible, sgd, unrolled
from core.errors import CoreError, InvalidOptimizer, InvalidProblem, UncertifiedGradient
from core.reversal.moves import add, decay, real, subtract, undecay
from core.reversal.optimizers import Momentum, Optimizer, Range
from tests.core.reversal.training import Training

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "write-an-optimizer.md"
STEPS = 40


@pytest.fixture(scope="module")
def page():
    """Names that the page's blocks define, run one after another."""
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)  # the page's own asserts are tests
    return names


def test_the_blocks_run_and_the_example_is_certified(page):
    certificate = page["found"].certificate
    assert certificate.exact
    assert certificate.mismatched_bits == 0
    assert certificate.optimizer == "adabelief"
    assert set(certificate.unit_exponents) == {"position", "moment", "spread"}


def random_schedule(optimizer, steps):
    """Step by step and group by group, decays from almost none to almost all."""
    rng = np.random.default_rng(3)
    values = {
        "step_size": rng.uniform(1e-4, 1e-2, (steps, 2)),
        "b1": rng.uniform(0.3, 0.999, (steps, 2)),
        "b2": rng.uniform(0.3, 0.999, (steps, 2)),
        "epsilon": rng.uniform(1e-6, 1e-3, (steps, 2)),
        "weight_decay": rng.uniform(0, 1, (steps, 2)),
    }
    return {name: values[name] for name in optimizer.hyperparameters}


@pytest.mark.parametrize("dtype", [pytest.param(jnp.float32, marks=pytest.mark.slow), jnp.float64])
@pytest.mark.parametrize("name", ["adabelief", pytest.param("lion", marks=pytest.mark.slow)])
def test_both_optimizers_are_undone_bit_for_bit(page, name, dtype):
    optimizer = page[name]
    training = Training(random_schedule(optimizer, 150), 150, dtype, optimizer=optimizer)
    trajectory = training.forward()
    state = training.backward(trajectory)
    assert training.mismatch(state) == {}
    assert len(trajectory.store) == 0


def test_lion_takes_the_published_step(page):
    rng = np.random.default_rng(4)
    w, m = jnp.asarray(rng.normal(size=5)), jnp.zeros(5)
    hypers = {"step_size": 0.1, "b1": 0.9, "b2": 0.95, "weight_decay": 0.2}
    hypers = {name: jnp.asarray(value) for name, value in hypers.items()}
    state = page["lion"].init(w)
    for _ in range(10):
        g = jnp.asarray(rng.normal(size=5))
        state = page["lion"].step(state, g, hypers)
        w = w - 0.1 * (jnp.sign(0.9 * m + 0.1 * g) + 0.2 * w)
        m = 0.95 * m + 0.05 * g
        np.testing.assert_allclose(state.position, w, rtol=1e-13, atol=1e-13)


def make_problem(optimizer):
    return Problem(
        init=lambda hyper, key: {"w": jnp.linspace(0.1, 1, 5)},
        inner_loss=lambda params, hyper, step, key: jnp.sum(jnp.sin(3 * params["w"] + step)),
        outer_loss=lambda params, hyper, key: jnp.sum(params["w"] ** 2),
        schedule=lambda hyper: hyper,
    )


def run(optimizer, engine=None, **hyper):
    hyper = {name: value * jnp.ones(STEPS) for name, value in hyper.items()}
    return hypergradient(
        make_problem(optimizer),
        hyper,
        optimizer=optimizer,
        num_steps=STEPS,
        key=jax.random.key(0),
        engine=engine or reversible(),
    )


@pytest.mark.slow
def test_lion_has_the_gradient_of_its_own_unrolled_steps(page):
    hyper = {"step_size": 0.02, "b1": 0.9, "b2": 0.97, "weight_decay": 0.1}
    found = run(page["lion"], **hyper)
    expected = run(page["lion"], unrolled(), **hyper)
    assert found.certificate.exact
    for name in ("step_size", "weight_decay"):
        error = jnp.linalg.norm(found.gradient[name] - expected.gradient[name])
        assert error <= 1e-8 * jnp.linalg.norm(expected.gradient[name])
    for name in ("b1", "b2"):
        assert not found.gradient[name].any()
        assert not expected.gradient[name].any()


# Mistakes, each in an optimizer that is otherwise SGD


def at_rest(weights):
    return Momentum(weights, jnp.zeros_like(weights))


def good_step(state, gradient, hypers):
    velocity = add(decay(state.velocity, hypers["momentum"]), gradient)
    return Momentum(subtract(state.position, hypers["step_size"] * real(velocity)), velocity)


def good_unstep(state, hypers):
    position = add(state.position, hypers["step_size"] * real(state.velocity))
    gradient = yield position
    return Momentum(position, undecay(subtract(state.velocity, gradient), hypers["momentum"]))


RANGES = {"step_size": Range(), "momentum": Range(0.0, 1.0)}


def attempt(step=good_step, unstep=good_unstep, init=at_rest, momentum=0.5, engine=None, **parts):
    optimizer = Optimizer("mine", RANGES, init, step, unstep)._replace(**parts)
    return run(optimizer, engine, step_size=0.01, momentum=momentum)


def test_the_others_differ_from_this_one_which_is_right():
    assert attempt().certificate.exact


class Other(NamedTuple):
    position: jax.Array
    velocity: jax.Array


STATE_WANTED = r"it must return Momentum\(position, velocity\), the state that init makes"
ENGINES = pytest.mark.parametrize("engine", [reversible(), unrolled()], ids=lambda engine: engine.name)


@ENGINES
@pytest.mark.parametrize(
    ("change", "returned"),
    [
        (lambda state: None, "None"),
        (tuple, "something of type tuple"),
        (lambda state: state._asdict(), "something of type dict"),
        (lambda state: state.position, "(a number|an array of float64) (of|and) shape"),
        (lambda state: Other(*state), "something of type Other"),
    ],
)
def test_a_step_that_returns_no_state_is_named(change, returned, engine):
    with pytest.raises(InvalidOptimizer, match=f"step of mine returned {returned}.*; {STATE_WANTED}"):
        attempt(lambda *given: change(good_step(*given)), engine=engine)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: None, f"None; {STATE_WANTED}"),
        (tuple, f"something of type tuple; {STATE_WANTED}"),
        (lambda state: Other(*state), f"something of type Other; {STATE_WANTED}"),
        (
            lambda state: state._replace(velocity=real(state.velocity)),
            "an array .* for velocity; it must be what add",
        ),
        (lambda state: state._replace(velocity=0.0), "something of type float for velocity; it must be what add"),
    ],
)
def test_an_unstep_that_returns_no_state_is_named(change, message):
    def unstep(state, hypers):
        return change((yield from good_unstep(state, hypers)))

    with pytest.raises(InvalidOptimizer, match=f"unstep of mine returned {message}"):
        attempt(unstep=unstep)


def test_an_unstep_that_yields_no_position_is_named():
    def unstep(state, hypers):
        yield
        return state

    with pytest.raises(InvalidOptimizer, match="unstep of mine yields None for position; it must be what add"):
        attempt(unstep=unstep)


def test_a_field_that_no_move_made_is_named():
    def step(state, gradient, hypers):
        return good_step(state, gradient, hypers)._replace(velocity=0.5 * real(state.velocity))

    with pytest.raises(
        InvalidOptimizer, match=r"step of mine returned an array .* for velocity; it must be what add"
    ):
        attempt(step)


@ENGINES
@pytest.mark.parametrize(
    ("init", "message"),
    [
        (lambda w: None, "returned None; it must return a NamedTuple whose first field is 'position'"),
        (lambda w: {"position": w, "speed": w}, "returned something of type dict; it must return a NamedTuple"),
        (lambda w: (w, w), "returned something of type tuple; it must return a NamedTuple"),
        (lambda w: w, "returned an array of float64 and shape .*; it must return a NamedTuple"),
        (
            lambda w: Momentum(w, jnp.zeros(7)),
            r"returned an array of float64 and shape \(7,\) for velocity.*zeros_like",
        ),
        (lambda w: Momentum(w, 0.0), "returned something of type float for velocity.*zeros_like"),
        (lambda w: Momentum(w, None), "returned None for velocity"),
        (lambda w: Momentum(w, jnp.zeros(w.shape, int)), "returned an array of int64 .* for velocity"),
        (lambda w: Momentum(w, jnp.zeros(w.shape, jnp.float32)), "returned an array of float32 .* for velocity"),
        (
            lambda w: Momentum(jnp.sum(w), jnp.zeros_like(w)),
            r"returned .* shape \(\) for position, but .* \(5,\) for the weights",
        ),
    ],
)
def test_an_init_that_makes_no_state_is_named(init, message, engine):
    with pytest.raises(InvalidOptimizer, match=f"init of mine {message}"):
        attempt(init=init, engine=engine)


@ENGINES
@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"hyperparameters": ["step_size"]},
            r"hyperparameters of mine is \['step_size'\]; give a dict {name: Range}",
        ),
        ({"hyperparameters": RANGES | {1: Range()}}, "hyperparameters of mine is .*; give a dict"),
        (
            {"hyperparameters": RANGES | {"momentum": (0, 1)}},
            r"'momentum' of mine has the range \(0, 1\); give a Range",
        ),
        ({"hyperparameters": RANGES | {"momentum": 0.5}}, r"'momentum' of mine has the range 0\.5"),
        ({"hyperparameters": RANGES | {"momentum": Range("0")}}, "'momentum' of mine has the range .*of numbers"),
        ({"hyperparameters": RANGES | {"momentum": Range(1.0, 0.0)}}, "low ≤ default < high"),
        ({"hyperparameters": RANGES | {"momentum": Range(0.0, 1.0, 1.0)}}, "low ≤ default < high"),
        ({"step": 3}, r"step of mine is 3; give a function of \(state, gradient, hypers\)"),
        ({"step": lambda state, gradient: state}, r"step of mine takes \(state, gradient\), but is called with"),
        ({"unstep": lambda state: state}, "unstep of mine takes"),
        ({"init": lambda: None}, "init of mine takes"),
        ({"prepare": lambda rows: None}, "prepare of mine returned None; it must return the rows that step reads"),
        (
            {"prepare": lambda rows: dict.fromkeys(rows, 1.0)},
            "prepare of mine returned .*; it must return the rows",
        ),
        (
            {"unit_per_weight": "velocity"},
            "unit_per_weight of mine is 'velocity'; give a tuple of names of fields",
        ),
        ({"unit_per_weight": ["velocity"]}, r"unit_per_weight of mine is \['velocity'\]; give a tuple"),
    ],
)
def test_parts_of_another_kind_are_named(parts, message, engine):
    with pytest.raises(InvalidOptimizer, match=message):
        attempt(engine=engine, **parts)


def test_units_for_fields_that_are_not_there_are_named():
    with pytest.raises(
        InvalidOptimizer, match=r"unit_per_weight of mine names \['speed'\]; its state's fields are"
    ):
        attempt(unit_per_weight=("speed",))


def decays_by(factor_of):
    """Step and unstep whose factor is a function of state, gradient and hyperparameters."""

    def step(state, gradient, hypers):
        velocity = decay(state.velocity, factor_of(state, gradient, hypers))
        velocity = add(velocity, gradient)
        return Momentum(subtract(state.position, hypers["step_size"] * real(velocity)), velocity)

    def unstep(state, hypers):
        position = add(state.position, hypers["step_size"] * real(state.velocity))
        gradient = yield position
        velocity = subtract(state.velocity, gradient)
        before = Momentum(position, velocity)  # the factor's own velocity is gone
        return Momentum(position, undecay(velocity, factor_of(before, gradient, hypers)))

    return step, unstep


@pytest.mark.parametrize(
    "factor_of",
    [
        lambda state, gradient, hypers: hypers["momentum"] / (1 + real(state.position) ** 2),
        lambda state, gradient, hypers: hypers["momentum"] * jnp.exp(-jnp.abs(gradient)),
    ],
    ids=["position", "gradient"],
)
def test_a_factor_that_depends_on_weights_or_gradient_is_refused(factor_of):
    with pytest.raises(
        InvalidOptimizer, match="factor that depends on the state or the gradient.*hyperparameters"
    ):
        attempt(*decays_by(factor_of))


def test_a_factor_that_depends_on_memory_never_gets_a_certificate():
    step, unstep = decays_by(lambda state, gradient, hypers: hypers["momentum"] / (1 + real(state.velocity) ** 2))
    with pytest.raises(CoreError):  # which of them is a matter of how far the buffer outgrows its plan
        attempt(step, unstep)


def test_two_decays_are_refused():
    def step(state, gradient, hypers):
        velocity = decay(decay(state.velocity, hypers["momentum"]), hypers["momentum"])
        return good_step(state._replace(velocity=velocity), gradient, hypers)

    with pytest.raises(InvalidOptimizer, match="decays velocity twice; multiply the factors"):
        attempt(step)


def test_an_undecay_without_a_decay_is_refused():
    def step(state, gradient, hypers):
        return good_step(state._replace(velocity=subtract(state.velocity, gradient)), gradient, hypers)

    def unstep(state, hypers):
        recovered = yield from good_unstep(state, hypers)
        return recovered._replace(position=undecay(recovered.position, hypers["momentum"]))

    with pytest.raises(InvalidOptimizer, match="unstep undoes a decay that step never made; mirror"):
        attempt(step, unstep)


def test_two_questions_for_the_gradient_are_refused():
    def unstep(state, hypers):
        yield state.position
        return (yield from good_unstep(state, hypers))

    with pytest.raises(InvalidOptimizer, match="yields twice"):
        attempt(unstep=unstep)


class Turned(NamedTuple):
    velocity: jax.Array
    position: jax.Array


def test_a_state_that_does_not_begin_with_the_position_is_refused():
    def init(weights):
        return Turned(jnp.zeros_like(weights), weights)

    def step(state, gradient, hypers):
        after = good_step(Momentum(state.position, state.velocity), gradient, hypers)
        return Turned(after.velocity, after.position)

    with pytest.raises(InvalidOptimizer, match="first field of mine's state is 'velocity'"):
        attempt(step, init=init)


def test_a_factor_out_of_range_is_named():
    def step(state, gradient, hypers):
        return good_step(state, gradient, hypers | {"momentum": 3 * hypers["momentum"]})

    with pytest.raises(InvalidProblem, match=r"step 0 of mine would scale velocity of group 0 by 1\.5"):
        attempt(step)


def leaves_out_the_decay(state, hypers):
    position = add(state.position, hypers["step_size"] * real(state.velocity))
    gradient = yield position
    return Momentum(position, subtract(state.velocity, gradient))


def undoes_in_the_order_of_step(state, hypers):
    position = add(state.position, hypers["step_size"] * real(state.velocity))
    gradient = yield position
    return Momentum(position, subtract(undecay(state.velocity, hypers["momentum"]), gradient))


def asks_before_the_position_is_back(state, hypers):
    gradient = yield state.position
    velocity = undecay(subtract(state.velocity, gradient), hypers["momentum"])
    return Momentum(add(state.position, hypers["step_size"] * real(state.velocity)), velocity)


def test_an_unstep_that_leaves_out_the_decay_is_named():
    with pytest.raises(InvalidOptimizer, match="unstep of mine never undoes the decay of velocity"):
        attempt(unstep=leaves_out_the_decay)


@pytest.mark.parametrize("unstep", [undoes_in_the_order_of_step, asks_before_the_position_is_back])
def test_an_unstep_that_does_not_mirror_step_gets_no_certificate(unstep):
    with pytest.raises(UncertifiedGradient, match="missed the start by [1-9][0-9]* bits"):
        attempt(unstep=unstep)


def test_an_increment_that_reads_the_number_it_moves_gets_no_certificate():
    def step(state, gradient, hypers):
        velocity = add(state.velocity, (hypers["momentum"] - 1) * real(state.velocity))
        return good_step(state._replace(velocity=velocity), gradient, hypers)

    def unstep(state, hypers):
        recovered = yield from good_unstep(state, hypers)
        velocity = recovered.velocity
        return recovered._replace(velocity=subtract(velocity, (hypers["momentum"] - 1) * real(velocity)))

    with pytest.raises(UncertifiedGradient, match="missed the start"):
        attempt(step, unstep)


def test_sgd_is_certified_on_the_same_problem():
    """So that an optimizer's author knows where to look."""
    assert run(sgd(), step_size=0.01, momentum=0.5).certificate.exact
