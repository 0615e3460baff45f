"""Every formula of docs/explanation, under its label."""

import re
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import Problem, adam, adamw, heavy_ball, hypergradient, nesterov, reversible, rmsprop, sgd, unrolled
from core.reversal import lifting, moves, states, unit_changes
from core.reversal.information_buffer import (
    NUMBER_BITS,
    SPILL_BITS,
    Factors,
    Place,
    plan_spills,
    spill,
    unspill,
    widened,
)
from core.reversal.lifting import FORGETTING, FRACTION_BITS, LIMIT, OVERFLOW
from core.reversal.moves import Fixed, root
from core.reversal.schedule import normalize, prepare
from core.reversal.states import mismatched_bits, numbers_of
from core.reversal.stores import HostStore
from core.reversal.trajectory import forward, plan_for
from tests.core.reversal.training import Training

DOCS = Path(__file__).parents[2] / "docs" / "explanation"
DISPLAY = re.compile(r"```math\n(.*?)```", re.DOTALL)
LABEL = re.compile(r"\(([RLOC]\d+)\)")


def rng(seed=0):
    return np.random.default_rng(seed)


def norm(tree):
    return float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree))))


def assert_close(found, expected, tolerance=1e-12):
    assert norm(jax.tree.map(jnp.subtract, found, expected)) <= tolerance * norm(expected)


def test_every_label_is_defined_once_and_checked_here():
    text = "".join(page.read_text() for page in sorted(DOCS.glob("*.md")))
    displays = DISPLAY.findall(text)
    defined = [label for display in displays for label in re.findall(r"\\text\{\(([RLOC]\d+)\)\}", display)]
    assert len(defined) == len(displays), "a displayed formula has no label, or has two"
    assert len(set(defined)) == len(defined)
    tests = Path(__file__).read_text()
    checked = {label for name in re.findall(r"^def test_\w+", tests, re.MULTILINE) for label in labels_of(name)}
    assert checked == set(defined)
    assert set(LABEL.findall(text)) <= set(defined), "a reference to a formula that is not there"


def labels_of(name):
    """Labels in a test's name: test_R2_R3_… checks (R2) and (R3)."""
    return re.findall(r"(?<=_)[RLOC]\d+(?=_|$)", name)


# The reverse pass


WEIGHTS = jnp.asarray(rng(1).normal(size=4))
MATRIX = jnp.asarray(rng(2).normal(size=(4, 4)))


def inner_loss(w, theta, step):
    return jnp.sum(jnp.cos(MATRIX @ w + step) * theta) + jnp.sum(theta**2 * w**2)


def outer_loss(w, theta):
    return jnp.sum(w**3) + jnp.sum(jnp.sin(theta))


PER_STEP = {
    "sgd": {"step_size": 0.1, "momentum": 0.7},
    "nesterov": {"step_size": 0.05, "momentum": 0.7},
    "adam": {"step_size": 0.1, "b1": 0.6, "b2": 0.8, "epsilon": 0.01},
}


@pytest.mark.parametrize("optimizer", [sgd(), nesterov(), adam()], ids=lambda one: one.name)
def test_R1_R2_R3_the_adjoint_of_any_optimizer_is_that_of_the_unrolled_program(optimizer):
    steps, theta = 5, jnp.array([0.3, -0.2, 0.5, 0.1])
    hypers = {name: value * jnp.linspace(0.9, 1.1, steps) for name, value in PER_STEP[optimizer.name].items()}
    row = lambda hypers, step: {name: values[step] for name, values in hypers.items()}  # noqa: E731

    def step(state, theta, hypers, number):  # (R1)
        gradient = jax.grad(inner_loss)(state.position, theta, number)
        return optimizer.step(state, gradient, row(hypers, number))

    def unrolled_program(theta, hypers, weights):
        state = optimizer.init(weights)
        for number in range(steps):
            state = step(state, theta, hypers, number)
        return outer_loss(state.position, theta)

    states = [optimizer.init(WEIGHTS)]
    for number in range(steps):
        states.append(step(states[-1], theta, hypers, number))
    d_weights, d_theta = jax.grad(outer_loss, argnums=(0, 1))(states[-1].position, theta)
    adjoint = optimizer.init(jnp.zeros(4))._replace(position=d_weights)
    d_hypers = jax.tree.map(jnp.zeros_like, hypers)
    for number in reversed(range(steps)):
        before, gradient = states[number], jax.grad(inner_loss)(states[number].position, theta, number)
        _, pull = jax.vjp(optimizer.step, before, gradient, row(hypers, number))
        adjoint, u, d_row = pull(adjoint)  # (R2)
        hessian = jax.hessian(inner_loss)(before.position, theta, number)
        mixed = jax.jacobian(jax.grad(inner_loss), argnums=1)(before.position, theta, number)
        adjoint = adjoint._replace(position=adjoint.position + hessian @ u)  # (R3)
        d_theta = d_theta + mixed.T @ u
        d_hypers = {name: values.at[number].set(d_row[name]) for name, values in d_hypers.items()}
    expected = jax.grad(unrolled_program, argnums=(0, 1, 2))(theta, hypers, WEIGHTS)
    assert_close((d_theta, d_hypers, adjoint.position), expected)


def test_R4_both_second_order_products_are_one_directional_derivative():
    theta, u = jnp.array([0.3, -0.2, 0.5, 0.1]), jnp.asarray(rng(3).normal(size=4))
    gradients = jax.grad(inner_loss, argnums=(0, 1))
    primal, product = jax.jvp(lambda w: gradients(w, theta, 0), (WEIGHTS,), (u,))
    hessian = jax.hessian(inner_loss)(WEIGHTS, theta, 0)
    mixed = jax.jacobian(jax.grad(inner_loss), argnums=1)(WEIGHTS, theta, 0)
    assert_close(product, (hessian @ u, mixed.T @ u))
    assert_close(primal[0], jax.grad(inner_loss)(WEIGHTS, theta, 0))


def test_R5_R6_the_reverse_pass_of_sgd_written_out():
    v, g, lambda_w, lambda_v = jnp.asarray(rng(4).normal(size=(4, 4)))
    alpha, gamma = 0.3, 0.8
    optimizer = sgd()
    state = optimizer.init(WEIGHTS)._replace(velocity=v)
    hypers = {"step_size": jnp.asarray(alpha), "momentum": jnp.asarray(gamma)}
    after, pull = jax.vjp(optimizer.step, state, g, hypers)
    v_after = gamma * v - (1 - gamma) * g  # (R5)
    assert_close(after, type(state)(WEIGHTS + alpha * v_after, v_after))

    expected, expected_u, expected_hypers = pull(type(state)(lambda_w, lambda_v))
    d_alpha = lambda_w @ v_after  # (R6), line by line
    lambda_v = lambda_v + alpha * lambda_w
    d_gamma = lambda_v @ (v + g)
    u = -(1 - gamma) * lambda_v
    lambda_v = gamma * lambda_v
    assert_close(((lambda_w, lambda_v), u), (tuple(expected), expected_u))
    assert_close([d_alpha, d_gamma], [expected_hypers["step_size"], expected_hypers["momentum"]])


def test_R7_R8_dividing_by_the_momentum_multiplies_an_error_by_its_inverse():
    steps, alpha = 100, 0.1
    gammas = rng(5).uniform(0.5, 0.9, steps)
    gradients = rng(6).normal(size=steps)  # that do not answer to the error

    def naively_undone(error):
        w, v = Fraction(1), Fraction(0)  # no rounding but the error itself
        for gamma, g in zip(map(Fraction, gammas), map(Fraction, gradients), strict=True):
            v = gamma * v - (1 - gamma) * g
            w = w + Fraction(alpha) * v
        v += error
        for gamma, g in zip(map(Fraction, gammas[::-1]), map(Fraction, gradients[::-1]), strict=True):
            w = w - Fraction(alpha) * v  # (R7)
            v = (v + (1 - gamma) * g) / gamma
        return w, v

    assert naively_undone(0) == (1, 0)
    growth = 1 / np.prod(gammas)
    assert float(naively_undone(Fraction(1, 2**50))[1] * 2**50) == pytest.approx(growth)  # (R8)
    assert float(np.prod(np.full(100, 1 / 0.9))) == pytest.approx(38e3, rel=0.02)
    assert np.log10(2.0**100) == pytest.approx(30, abs=0.2)


def products(function, *arguments):
    """Multiplications in the matrix products of a program, per example."""
    count = 0
    for equation in jax.make_jaxpr(function)(*arguments).eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            lengths = [equation.invars[0].aval.shape[axis] for axis in contracted]
            count += int(np.prod(lengths)) * equation.outvars[0].aval.size
    return count


@pytest.mark.parametrize(
    ("layers", "floor"), [((784, 50, 50, 50, 10), 3.17), ((784, 500, 500, 500, 10), 3.66), ((30, 7), 3.0)]
)
def test_R9_R10_the_floor_of_the_cost_counted_in_products(layers, floor):
    batch = 2
    shapes = list(pairwise(layers))
    weights = [jnp.zeros(shape) for shape in shapes]
    data = jnp.ones((batch, layers[0]))

    def loss(weights):
        outputs = data
        for matrix in weights:
            outputs = jnp.tanh(outputs @ matrix)
        return jnp.sum(outputs)

    gradient = jax.grad(loss)
    linearized = lambda weights, u: jax.jvp(gradient, (weights,), (u,))  # noqa: E731
    c_gradient = products(gradient, weights) / batch
    c_tangent = products(linearized, weights, weights) / batch - c_gradient
    first, *rest = [rows * columns for rows, columns in shapes]
    assert c_gradient == 2 * first + 3 * sum(rest)  # (R10)
    assert c_tangent == 2 * first + 6 * sum(rest)
    training_and_back = c_gradient + products(linearized, weights, weights) / batch
    assert training_and_back / c_gradient == pytest.approx(2 + c_tangent / c_gradient)  # (R9)
    assert training_and_back / c_gradient == pytest.approx(floor, abs=0.005)


# Lifting


def whole(seed, bits, size=1000):
    return np.round(rng(seed).uniform(-1, 1, size) * 2.0**bits)


def nearest(number):
    return Fraction(round(number))


def exactly_decayed(n, b, factor):
    """(L4) in exact arithmetic, and what its three roundings added."""
    n, b, k = Fraction(int(n)), Fraction(int(b)), Fraction(factor)
    b = b + n
    first = nearest((k - 1) * b)
    e1, n = first - (k - 1) * b, n + first
    second = nearest(-n / k)
    e2, b = second + n / k, b + second
    third = nearest(k * (1 - k) * b)
    e3, n = third - k * (1 - k) * b, n + third
    return n, b, (e1, e2, e3)


def test_L1_L2_sums_of_whole_numbers_are_exact_and_undone():
    n, increments = whole(0, 51.9), rng(1).normal(size=1000) * 2.0**8
    for exponent in (-50, -40, 3):
        scaled = increments * 2.0 ** (exponent + 40)
        number = Fixed(jnp.asarray(n), jnp.asarray(2.0**exponent), None)
        moved = moves.add(number, scaled)
        rounded = [int(part) for part in np.round(scaled * 2.0**-exponent)]
        assert [int(part) for part in moved.integers] == [int(a) + b for a, b in zip(n, rounded, strict=True)]
        np.testing.assert_array_equal(moves.subtract(moved, scaled).integers, n)
        np.testing.assert_array_equal(moves.real(number), n * 2.0**exponent)
    assert OVERFLOW == 2.0**52


@pytest.mark.parametrize("factor", [Fraction(1, 7), Fraction(1, 2), Fraction(9, 10), Fraction(1)])
def test_L3_four_shears_make_a_scaling(factor):
    k = factor
    shears = [[[1, k - k * k], [0, 1]], [[1, 0], [-1 / k, 1]], [[1, k - 1], [0, 1]], [[1, 0], [1, 1]]]
    product = np.eye(2, dtype=int).astype(object)
    for shear in shears:
        (a, b), (c, d) = shear
        assert a * d - b * c == 1
        product = product @ np.array(shear, dtype=object)
    assert product.tolist() == [[k, 0], [0, 1 / k]]


@pytest.mark.parametrize("factor", [2.0**-20, 0.3, 0.5, 0.9, 0.999, 1.0])
def test_L4_L5_rounded_shears_are_what_the_code_does_and_are_undone_from_last_to_first(factor):
    n, b = whole(2, 40), whole(3, 27)
    after, buffer = lifting.decay(jnp.asarray(n), jnp.asarray(b), jnp.asarray(factor))
    expected = b + n  # (L4)
    value = n + np.round((factor - 1) * expected)
    expected = expected + np.round(value * (-1 / factor))
    value = value + np.round((factor * (1 - factor)) * expected)
    np.testing.assert_array_equal((after, buffer), (value, expected))
    value = value - np.round((factor * (1 - factor)) * expected)  # (L5)
    expected = expected - np.round(value * (-1 / factor))
    value = value - np.round((factor - 1) * expected)
    expected = expected - value
    np.testing.assert_array_equal((value, expected), (n, b))
    np.testing.assert_array_equal(lifting.undecay(after, buffer, jnp.asarray(factor)), (n, b))


@pytest.mark.parametrize("factor", [2.0**-20, 0.01, 0.3, 0.5, 0.9, 0.999, 1.0])
def test_L6_L7_L8_the_error_of_a_decay_and_the_growth_of_its_buffer(factor):
    k = Fraction(factor)
    for n, b in zip(whole(4, 50, 300), whole(5, 25, 300), strict=True):
        after, buffer, (e1, e2, e3) = exactly_decayed(n, b, factor)
        n, b = int(n), int(b)
        assert after == k * n + k * e1 + k * (1 - k) * e2 + e3  # (L6)
        assert buffer == b / k - e1 / k + e2
        assert max(map(abs, (e1, e2, e3))) <= Fraction(1, 2)
        assert abs(after - k * n) <= (1 + 2 * k - k * k) / 2 <= 1  # (L7)
    # as computed, with everything as large as it may get
    buffers = whole(6, 51.99) * factor
    values = whole(7, 51.99)
    buffers = np.round(buffers)
    after, buffer = lifting.decay(jnp.asarray(values), jnp.asarray(buffers), jnp.asarray(factor))
    exact = [abs(Fraction(int(a)) - k * Fraction(int(n))) for a, n in zip(after, values, strict=True)]
    assert max(exact) <= 2
    assert np.all(np.abs(buffer) <= np.abs(buffers) / factor + 1 / factor + 2)  # (L8)


def planned(factors, size=1):
    forgets = factors < FORGETTING
    bits = np.minimum(-np.log2(np.maximum(factors, 1e-300)), NUMBER_BITS)
    known = Factors({"v": np.where(forgets, 1.0, factors)}, {"v": forgets}, {"v": bits}, ("v",), len(factors))
    return plan_spills(known, [size] * factors.shape[1])


def test_L8_L9_the_bound_is_a_running_sum_and_tells_when_to_spill():
    factors = rng(8).uniform(0.6, 0.99, (400, 1))
    bound, growth, shares, first = 0.0, 1.0, 0.0, None
    for step, (factor,) in enumerate(factors):
        bound = bound / factor + 1 / factor + 2  # (L8)
        growth /= factor
        shares += (1 / factor + 2) / growth
        assert bound == pytest.approx(growth * shares)  # (L9), from an empty buffer
        if bound > OVERFLOW and first is None:
            first = step
    assert next(segment.start for segment in planned(factors).segments if segment.spills) == first


def test_L10_the_bound_counts_the_bits_that_every_number_sheds():
    factors = rng(9).uniform(0.3, 0.99, (50, 2))
    sizes = 7
    assert planned(factors, sizes).bound_bits == pytest.approx(sizes * np.log2(1 / factors).sum())
    buffer, value, shed = jnp.zeros(200), jnp.asarray(whole(10, 45, 200)), 0.0
    for factor in factors[:20, 0]:
        value, buffer = lifting.decay(value, buffer, jnp.asarray(factor))
        shed += np.log2(1 / factor)
    assert np.log2(float(jnp.max(jnp.abs(buffer)))) == pytest.approx(shed, abs=6)


def test_L11_a_spill_splits_a_buffer():
    buffer = whole(11, 52)
    high, low = spill(jnp.asarray(buffer))
    assert low.dtype == jnp.uint32
    assert [2**SPILL_BITS * int(h) + int(part) for h, part in zip(high, low, strict=True)] == [
        int(b) for b in buffer
    ]
    assert np.all(np.abs(high) <= 2.0**-SPILL_BITS * np.abs(buffer) + 1)
    np.testing.assert_array_equal(unspill(high, low), buffer)


def momentum_training(momentum, steps=200):
    return Training({"step_size": 0.01, "momentum": momentum}, steps)


def test_L12_stored_bits_are_those_spilled_and_those_still_in_buffers():
    training = momentum_training(0.5)
    trajectory = training.forward()
    spilled = sum(
        SPILL_BITS * training.plan.sizes[place.group]
        for segment in training.plan.segments
        for place in segment.spills
    )
    left = 0.0
    for number in jax.tree.leaves(trajectory.state.velocity, is_leaf=moves.is_number):
        left += number.buffer.size * (np.ceil(np.log2(np.abs(number.buffer).max() + 1)) + 1)
        left -= number.buffer.size * np.log2(number.scale)
    assert spilled > 0
    assert trajectory.stored_bits == spilled + left
    assert trajectory.stored_bits == pytest.approx(training.plan.bound_bits, rel=0.1)


@pytest.mark.parametrize("factor", [0.0, FORGETTING / 3])
def test_L13_tiny_factors_forget(factor):
    n, b = jnp.asarray(whole(12, 51)), jnp.asarray(whole(13, 40))
    assert FORGETTING == 2.0**-24
    after, buffer = lifting.decay(n, b, jnp.asarray(factor))
    np.testing.assert_array_equal(after, np.round(factor * n))
    np.testing.assert_array_equal(buffer, b)
    assert momentum_training(factor, 9).there_and_back() == {}


@pytest.mark.parametrize("scale", [1.0, 0.9, 0.3])
def test_L16_a_drifting_number_decays_by_its_scale_alone(scale):
    n = jnp.asarray(whole(3, 45))
    number = Fixed(
        n, jnp.asarray(2.0**-50), jnp.zeros_like(n), jnp.asarray(scale), turned=jnp.asarray(0.8 * scale)
    )
    decayed = moves.decay(number, jnp.asarray(0.8))
    np.testing.assert_array_equal(decayed.integers, n)
    np.testing.assert_allclose(moves.real(decayed), 0.8 * moves.real(number), rtol=1e-15)
    increment = rng(4).normal(size=n.shape) * 2.0**-6
    moved = moves.add(decayed, increment)
    np.testing.assert_array_equal(moves.subtract(moved, increment).integers, n)
    unit = 2.0**-50 * 0.8 * scale
    assert np.abs(moves.real(moved) - moves.real(decayed) - increment).max() <= 0.6 * unit + 1e-15 * 4


def test_L17_settling_is_one_decay_by_the_scale():
    training = momentum_training(0.9, 60)
    drift = training.course.drift
    assert list(np.unique(drift.first)) == [0, 13, 26, 39, 52]  # 0.9^13 ≥ 1/4 > 0.9^14
    plan = plan_for(training.optimizer, training.course.schedule, training.params, 13)
    state = training.forward(plan=plan).state
    settled = states.settle(drift, state, 13)
    for number, after in zip(state.velocity.values(), settled.velocity.values(), strict=True):
        np.testing.assert_allclose(number.scale, 0.9**13, rtol=1e-14)
        n, b = lifting.decay(number.integers, number.buffer, number.scale)
        np.testing.assert_array_equal(after.integers, n)
        np.testing.assert_array_equal(after.buffer, b)
        assert after.scale == 1
    assert not any(mismatched_bits(states.unsettle(drift, settled, 13), state).values())


@pytest.mark.parametrize("k", [-7, 1, 30, 60])
def test_L18_a_unit_changes_and_what_that_takes_off_is_stored(k):
    training, store, change = momentum_training(0.9, 60), HostStore(), {Place("velocity", 0): np.asarray(k)}
    state = training.forward().state
    before, after = (
        numbers_of(one.velocity)[0] for one in (state, unit_changes.change_units(state, change, store))
    )
    np.testing.assert_array_equal(after.integers, np.round(before.integers * 2.0**-k))
    assert after.unit == before.unit * 2.0**k
    assert (store.bits > 0) == (k > 0)
    left = widened(store.pop(), before.integers.shape)
    np.testing.assert_array_equal(before.integers, after.integers * 2.0**k + left)


def small_problem(inner=None, **schedule):
    def default(params, hyper, step, key):
        return jnp.sum(jnp.sin(params["w"] + step)) * hyper["scale"]

    return Problem(
        init=lambda hyper, key: {"w": jnp.linspace(0.1, 1, 5)},
        inner_loss=inner or default,
        outer_loss=lambda params, hyper, key: jnp.sum(params["w"] ** 2),
        schedule=lambda hyper: {"step_size": hyper["step_size"], **schedule},
    )


HYPER = {"step_size": jnp.full(20, 0.05), "scale": jnp.asarray(1.5)}
RUN = {"num_steps": 20, "key": jax.random.key(0)}


@pytest.fixture(scope="module")
def certified():
    problem = small_problem(momentum=0.5)
    return hypergradient(problem, HYPER, optimizer=sgd(), engine=reversible(), **RUN)


def test_L14_L15_units_leave_head_room(certified):
    exponents = certified.certificate.unit_exponents
    (position,), (velocity,) = exponents["position"], exponents["velocity"]
    assert position <= -FRACTION_BITS
    assert LIMIT == OVERFLOW * 2.0**-FRACTION_BITS == 4096  # (L15)
    w, v, largest = jnp.linspace(0.1, 1, 5), jnp.zeros(5), 0.0
    for step in range(4):
        v = 0.5 * v - 0.5 * 1.5 * jnp.cos(w + step)
        w = w + 0.05 * v
        largest = max(largest, float(jnp.abs(v).max()))
    head_room = velocity + 52 - np.ceil(np.log2(largest))  # (L14), solved for H
    assert head_room > 0
    assert largest * 2.0**-velocity <= 2.0 ** (52 - head_room)


# Optimizers


def published_sgd(state, g, h):
    v = h["momentum"] * state["v"]  # (O1)
    v = v - (1 - h["momentum"]) * g
    return {"w": state["w"] + h["step_size"] * v, "v": v}


def published_heavy_ball(state, g, h):
    v = h["momentum"] * state["v"]  # (O2)
    v = v + g
    return {"w": state["w"] - h["step_size"] * v, "v": v}


def published_nesterov(state, g, h):
    v = h["momentum"] * state["v"] + g  # (O3)
    return {"w": state["w"] - h["step_size"] * g - h["step_size"] * h["momentum"] * v, "v": v, "q": g}


def published_rmsprop(state, g, h):
    nu = h["decay"] * state["nu"] + (1 - h["decay"]) * g**2  # (O4)
    m = h["momentum"] * state["m"] + g / (jnp.sqrt(nu) + h["epsilon"])
    return {"w": state["w"] - h["step_size"] * m, "m": m, "nu": nu}


def published_adam(state, g, h):
    m = h["b1"] * state["m"] + (1 - h["b1"]) * g  # (O5)
    nu = h["b2"] * state["nu"] + (1 - h["b2"]) * g**2
    left1, left2 = state.get("left1", 1.0) * h["b1"], state.get("left2", 1.0) * h["b2"]
    m_hat, nu_hat = m / (1 - left1), nu / (1 - left2)
    w = state["w"] * (1 - h["step_size"] * h["weight_decay"]) if "weight_decay" in h else state["w"]  # (O8)
    w = w - h["step_size"] * m_hat / (jnp.sqrt(nu_hat) + h["epsilon"])
    return {"w": w, "m": m, "nu": nu, "left1": left1, "left2": left2, "m_hat": m_hat, "nu_hat": nu_hat}


def follow_both(optimizer, published, steps=12):
    """States after each step: the optimizer's, on plain floats, beside the published recurrence's."""
    names = sorted(optimizer.hyperparameters)
    values = dict(zip(names, rng(14).uniform(0.1, 0.9, (len(names), steps)), strict=True))
    params = [WEIGHTS]
    prepared = prepare(normalize(values, optimizer, params, steps), optimizer, steps)
    state, other = optimizer.init(WEIGHTS), {name: jnp.zeros(4) for name in ("v", "q", "m", "nu")} | {"w": WEIGHTS}
    for step in range(steps):
        gradient = jnp.asarray(rng(100 + step).normal(size=4))
        state = optimizer.step(state, gradient, {name: row[0] for name, row in prepared.row(step).items()})
        other = published(other, gradient, {name: row[step] for name, row in values.items()})
        yield state, other


@pytest.mark.parametrize(
    ("optimizer", "published", "memory"),
    [
        (sgd(), published_sgd, {"velocity": "v"}),
        (heavy_ball(), published_heavy_ball, {"velocity": "v"}),
        (nesterov(), published_nesterov, {"velocity": "v", "last_gradient": "q"}),
        (rmsprop(), published_rmsprop, {"moment": "m", "square": "nu"}),
        (adam(), published_adam, {"moment": "m_hat", "square": "nu_hat"}),
        (adamw(), published_adam, {"moment": "m_hat", "square": "nu_hat"}),
    ],
    ids=lambda one: getattr(one, "name", ""),
)
def test_O1_O2_O3_O4_O5_O8_each_optimizer_takes_its_published_step(optimizer, published, memory):
    for state, other in follow_both(optimizer, published):
        assert_close(state.position, other["w"])
        for field, name in memory.items():
            assert_close(getattr(state, field), other[name])


def test_O6_O7_corrected_moments_are_averages_with_a_decay_of_their_own():
    steps = 30
    betas, gradients = rng(15).uniform(0.2, 0.99, steps), rng(16).normal(size=steps)
    schedule = normalize({"step_size": 0.1, "b1": betas, "b2": 0.9}, adam(), [WEIGHTS], steps)
    factors = np.asarray(prepare(schedule, adam(), steps).rows["b1"][:, 0])
    m = m_hat = n = 0.0
    for beta, factor, g in zip(betas, factors, gradients, strict=True):
        n_after = 1 - (1 - n) * beta
        assert factor == pytest.approx(beta * n / n_after, abs=1e-14)  # (O6)
        assert 1 - factor == pytest.approx((1 - beta) / n_after)  # (O7)
        assert factor <= beta
        m = beta * m + (1 - beta) * g
        m_hat = factor * m_hat + (1 - factor) * g
        assert m_hat == pytest.approx(m / n_after)
        n = n_after
    assert factors[0] == 0


def test_O9_rounding_is_differentiated_as_the_identity():
    """A step far below a unit has no effect at all in fixed point, and its derivative all the same."""
    tiny = {"step_size": jnp.full(20, 2.0**-80), "scale": jnp.asarray(1.0)}
    arguments = {"optimizer": sgd(), **RUN}
    found = hypergradient(small_problem(momentum=0.5), tiny, engine=reversible(), **arguments)
    unit = 2.0 ** found.certificate.unit_exponents["position"][0]
    np.testing.assert_array_equal(found.params["w"], np.round(np.linspace(0.1, 1, 5) / unit) * unit)
    expected = hypergradient(small_problem(momentum=0.5), tiny, engine=unrolled(), **arguments)
    assert_close(found.gradient["step_size"], expected.gradient["step_size"], 1e-9)


def test_O10_the_root_and_its_derivative_are_zero_where_there_is_none():
    x = jnp.array([4.0, 1e-30, 0.0, -(2.0**-40)])
    np.testing.assert_allclose(root(x), [2.0, 1e-15, 0.0, 0.0], rtol=1e-15)
    np.testing.assert_allclose(jax.vmap(jax.grad(root))(x), [0.25, 0.5e15, 0.0, 0.0], rtol=1e-15)


# The certificate


def test_C1_mismatched_bits_are_counted_over_numbers_and_buffers():
    training = momentum_training(0.5, 5)
    one = training.initial()
    a, b = one.velocity["a"], one.position["b"]
    other = one._replace(
        velocity=one.velocity | {"a": a._replace(integers=a.integers + 5, buffer=a.buffer + 7)},
        position=one.position | {"b": b._replace(integers=b.integers + 1)},
    )
    popcount = lambda left, right: int(np.bitwise_count(np.int64(left) ^ np.int64(right)).sum())  # noqa: E731
    found = mismatched_bits(other, one)
    assert found["velocity"] == popcount(a.integers + 5, a.integers) == 2 * a.integers.size
    assert found["velocity buffer"] == popcount(a.buffer + 7, a.buffer) == 3 * a.integers.size
    assert found["position"] == popcount(b.integers + 1, b.integers)
    assert not any(mismatched_bits(one, training.initial()).values())


def test_C2_every_state_on_the_way_back_is_the_one_of_the_way_there():
    training = momentum_training(0.7, 30)
    plan = training.plan
    assert len(plan.segments) == 1
    there = [
        forward(
            training.course,
            training.gradient,
            training.initial(),
            cut(plan, stop),
        ).state
        for stop in (10, 20, 30)
    ]
    state = there[-1]
    for begins, expected in ((20, there[1]), (10, there[0]), (0, training.initial())):
        piece = cut(plan, begins + 10, begins)
        trajectory = training.forward(cut(plan, begins + 10))._replace(state=state, plan=piece)
        state = training.backward(trajectory)
        assert not any(mismatched_bits(state, expected).values())


def cut(plan, stop, start=0):
    """The plan of fewer steps; it spills nothing."""
    return replace(plan, segments=(plan.segments[0]._replace(start=start, stop=stop),))


def test_C3_stored_bits_are_stated_per_parameter_and_step(certified):
    certificate = certified.certificate
    assert certificate.exact
    assert certificate.mismatched_bits == 0
    assert certificate.bound_bits_per_param_step == pytest.approx(1.0)  # momentum 1/2 sheds one bit a step
    stored = certificate.stored_bits_per_param_step * RUN["num_steps"] * 5
    assert stored == round(stored)  # whole bits


def test_a_wrong_second_derivative_is_certified_all_the_same():
    """What the certificate cannot tell: the negative control of its page."""

    @jax.custom_jvp
    def cosine(w):
        return jnp.cos(w)

    cosine.defjvp(lambda primals, tangents: (cosine(*primals), 0 * tangents[0]))  # should be −sin

    @jax.custom_jvp
    def sine(w):
        return jnp.sin(w)

    sine.defjvp(lambda primals, tangents: (sine(*primals), cosine(*primals) * tangents[0]))

    def wrong(params, hyper, step, key):
        return jnp.sum(sine(params["w"] + step)) * hyper["scale"]

    arguments = {"optimizer": sgd(), "engine": reversible(), **RUN}
    found = hypergradient(small_problem(wrong, momentum=0.5), HYPER, **arguments)
    right = hypergradient(small_problem(momentum=0.5), HYPER, **arguments)
    assert found.certificate.exact
    np.testing.assert_allclose(found.params["w"], right.params["w"], rtol=1e-12)
    assert norm(jax.tree.map(jnp.subtract, found.gradient, right.gradient)) > 1e-2 * norm(right.gradient)
