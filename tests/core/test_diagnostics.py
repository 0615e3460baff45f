import json
import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import Problem, hypergradient, sgd, unrolled
from core.diagnostics import (
    adjoint_growth,
    finite_difference_check,
    hypergradient_variance,
    metasmoothness,
)
from core.errors import FixedPointOverflow, InvalidProblem
from core.reversal import optimizers

KEY = jax.random.key(0)
INPUTS = jax.random.normal(jax.random.key(10), (32, 5), jnp.float64)
TARGETS = jnp.sin(INPUTS[:, 0])


@cache  # engines find what they compiled by the problem
def regression(dtype=jnp.float64, noisy=True):
    """A small network whose initial weights and batches depend on the key, if `noisy`."""

    def init(hyper, key):
        first, second = jax.random.split(key if noisy else KEY)
        return {
            "hidden": (jnp.exp(hyper["log_scale"]) * jax.random.normal(first, (5, 4))).astype(dtype),
            "out": (0.5 * jax.random.normal(second, (4,))).astype(dtype),
        }

    def loss(params, rows):
        predicted = jnp.tanh(INPUTS[rows].astype(dtype) @ params["hidden"]) @ params["out"]
        return jnp.mean((predicted - TARGETS[rows].astype(dtype)) ** 2)

    def inner_loss(params, hyper, step, key):
        rows = jax.random.randint(key, (16,), 0, 32) if noisy else jnp.arange(16)
        penalty = jnp.exp(hyper["log_l2"]) * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
        return loss(params, rows) + penalty.astype(dtype)

    return Problem(
        init=init,
        inner_loss=inner_loss,
        outer_loss=lambda params, hyper, key: loss(params, jnp.arange(32)),
        schedule=lambda hyper: {"step_size": jnp.exp(hyper["log_step"]), "momentum": 0.5},
    )


HYPER = {"log_scale": jnp.array(-0.7), "log_l2": jnp.array(-4.0), "log_step": jnp.full((20, 2), -1.0)}
RUN = {"optimizer": sgd(), "num_steps": 20, "key": KEY}


@cache
def quadratic(curvature=1.0):
    """Gradient descent multiplies the weights by 1 − step size · curvature, exactly."""
    return Problem(
        init=lambda hyper, key: jnp.array([1e-3, -2e-3]),
        inner_loss=lambda params, hyper, step, key: 0.5 * curvature * jnp.sum(params**2),
        outer_loss=lambda params, hyper, key: jnp.sum(params),
        schedule=lambda hyper: {"step_size": hyper, "momentum": 0.0},
    )


@cache
def logistic_map():
    """Training as the logistic map w ← r w (1 − w), which is chaotic at r = 4 and settles at r = 2.5."""
    return Problem(
        init=lambda hyper, key: jnp.linspace(0.2, 0.3, 500),
        # w − ∇L = r w (1 − w)
        inner_loss=lambda params, hyper, step, key: jnp.sum(
            params**2 / 2 - hyper * (params**2 / 2 - params**3 / 3)
        ),
        outer_loss=lambda params, hyper, key: jnp.mean(params),
        schedule=lambda hyper: {"step_size": 1.0, "momentum": 0.0},
    )


@pytest.mark.parametrize("step_size", [2.5, 2.001, 0.5])
@pytest.mark.parametrize("num_steps", [7, 90])
def test_adjoint_of_linear_dynamics_grows_as_its_eigenvalue(step_size, num_steps):
    num_steps = num_steps if step_size < 2.1 else min(num_steps, 40)
    found = adjoint_growth(quadratic(), jnp.array(step_size), optimizer=sgd(), num_steps=num_steps, key=KEY)
    factor = abs(1 - step_size)
    np.testing.assert_allclose(found.norms, math.sqrt(2) * factor ** (num_steps - found.steps), rtol=1e-10)
    assert found.growth_per_step == pytest.approx(math.log(factor), rel=1e-8, abs=1e-12)
    assert (found.steps[0], found.steps[-1]) == (0, num_steps)


@pytest.mark.slow
def test_adjoint_with_momentum_grows_as_the_largest_eigenvalue():
    """s = (w, v): v ← γ v − (1 − γ) h w ; w ← w + α v."""
    momentum, step_size, curvature = 0.5, 5.0, 2.0
    kick = -(1 - momentum) * curvature
    step = np.array([[1 + step_size * kick, step_size * momentum], [kick, momentum]])
    problem = quadratic(curvature)
    problem = Problem(
        problem.init,
        problem.inner_loss,
        problem.outer_loss,
        lambda hyper: {"step_size": step_size, "momentum": momentum},
    )
    found = adjoint_growth(problem, jnp.array(0.0), optimizer=sgd(), num_steps=30, key=KEY)
    expected = [abs((np.linalg.matrix_power(step.T, 30 - t) @ [1.0, 0.0])[0]) * math.sqrt(2) for t in found.steps]
    np.testing.assert_allclose(found.norms, expected, rtol=1e-9)
    largest = max(abs(np.linalg.eigvals(step)))
    assert found.growth_per_step == pytest.approx(math.log(largest), rel=0.01)


@pytest.mark.parametrize(
    "samples",
    [
        1,
        pytest.param(3, marks=pytest.mark.slow),
        pytest.param(20, marks=pytest.mark.slow),
        pytest.param(1000, marks=pytest.mark.slow),
    ],
)
def test_adjoint_at_the_start_is_the_hypergradient_of_the_initial_weights(samples):
    """However training is cut in pieces; the norms in between are those of shorter trainings."""
    problem = regression(noisy=False)
    learned = Problem(
        lambda hyper, key: hyper["start"],
        lambda params, hyper, step, key: problem.inner_loss(params, HYPER, step, key),
        problem.outer_loss,
        lambda hyper: {"step_size": 0.3, "momentum": 0.5},
    )
    hyper = {"start": problem.init(HYPER, KEY)}
    run = RUN | {"num_steps": 23}
    found = adjoint_growth(learned, hyper, samples=samples, **run)
    gradient = hypergradient(learned, hyper, engine=unrolled(), **run).gradient
    assert len(found.steps) == len(found.norms) <= samples + 1
    assert found.norms[0] == pytest.approx(float(jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient)))))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) for name in ("nesterov", "rmsprop", "adam", "adamw")]
)
def test_every_measurement_takes_every_optimizer(name):
    optimizer = getattr(optimizers, name)()
    problem = regression()
    problem = Problem(
        problem.init,
        problem.inner_loss,
        problem.outer_loss,
        lambda hyper: (
            {"step_size": 0.1 * jnp.exp(hyper["log_step"])} | ({"momentum": 0.5} if name == "nesterov" else {})
        ),
    )
    run = {"optimizer": optimizer, "num_steps": 20}
    engine = unrolled()
    assert np.isfinite(adjoint_growth(problem, HYPER, key=KEY, **run).norms).all()
    assert metasmoothness(problem, HYPER, key=KEY, **run).sign_agreement > 0.5
    assert finite_difference_check(problem, HYPER, key=KEY, engine=engine, directions=3, **run).worst < 1e-4
    keys = jax.random.split(KEY, 2)
    assert hypergradient_variance(problem, HYPER, keys=keys, engine=engine, **run).signal_to_noise > 0


def test_divergence_is_reported_and_not_raised():
    found = adjoint_growth(quadratic(), jnp.array(1e9), optimizer=sgd(), num_steps=40, key=KEY)
    assert not np.isfinite(found.norms[0])
    assert found.growth_per_step > 10
    assert None in json.loads(json.dumps(found.as_dict(), allow_nan=False))["norms"]
    lost = metasmoothness(quadratic(), jnp.array(1e9), optimizer=sgd(), num_steps=40, key=KEY)
    assert math.isnan(lost.sign_agreement)
    assert lost.as_dict()["sign_agreement"] is None


@pytest.mark.slow
def test_chaos_shows_in_the_adjoint_and_in_metasmoothness():
    run = {"optimizer": sgd(), "num_steps": 60, "key": KEY}
    smooth = metasmoothness(logistic_map(), jnp.array(2.5), jnp.array(1.0), step=1e-3, **run)
    rough = metasmoothness(logistic_map(), jnp.array(3.99), jnp.array(1.0), step=1e-3, **run)
    assert smooth.sign_agreement == pytest.approx(1.0)
    assert abs(rough.sign_agreement) < 0.3
    # the map settles at 1 − 1/r, whose second derivative is −2/r³, at r + h
    assert smooth.second_difference == pytest.approx(2 / 2.501**3, rel=1e-3)
    assert rough.second_difference > 100 * smooth.second_difference
    # the exponent of the logistic map at r = 4 is log 2 for almost every start
    chaotic = adjoint_growth(logistic_map(), jnp.array(4.0 - 1e-9), **run | {"num_steps": 40})
    settled = adjoint_growth(logistic_map(), jnp.array(2.5), **run)
    assert chaotic.growth_per_step > 0.5
    assert settled.growth_per_step == pytest.approx(math.log(0.5), rel=0.05)  # |2 − r| at the fixed point


@pytest.mark.slow
def test_metasmoothness_is_definition_two_written_out():
    problem, direction, step = regression(), jax.tree.map(jnp.ones_like, HYPER), 0.3
    found = metasmoothness(problem, HYPER, direction, step=step, points=4, **RUN)
    runs = [
        hypergradient(problem, jax.tree.map(lambda z, i=i: z + i * step, HYPER), engine=unrolled(), **RUN)
        for i in range(4)
    ]
    values = [float(run.value) for run in runs]
    weights = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(run.params)]) for run in runs]
    agreements, curvatures = [], []
    for i in (0, 1):
        d = np.abs(weights[i + 2] - weights[i])
        signs = np.sign(weights[i + 1] - weights[i]), np.sign(weights[i + 2] - weights[i + 1])
        agreements.append(signs[0] @ np.diag(d / d.sum()) @ signs[1])
        curvatures.append(abs(values[i + 2] - 2 * values[i + 1] + values[i]) / step**2)
    np.testing.assert_allclose(found.values, values, rtol=1e-12)
    assert found.sign_agreement == pytest.approx(np.mean(agreements))
    assert found.second_difference == pytest.approx(np.mean(curvatures))


def test_a_direction_that_moves_nothing_has_no_smoothness():
    still = jax.tree.map(jnp.zeros_like, HYPER)
    found = metasmoothness(regression(), HYPER, still, **RUN)
    assert math.isnan(found.sign_agreement)
    assert found.second_difference == 0


@pytest.mark.parametrize(
    ("dtype", "bound"), [(jnp.float64, 1e-6), pytest.param(jnp.float32, 2e-2, marks=pytest.mark.slow)]
)
def test_a_right_gradient_passes_the_finite_difference_check(dtype, bound):
    found = finite_difference_check(regression(dtype), HYPER, **RUN)
    assert found.predicted.shape == found.measured.shape == found.relative_errors.shape == (8,)
    # in float64 truncation: h² times a third derivative; in float32 h is 5e-3, and rounding is seen as well
    assert found.worst <= bound
    assert found.worst == max(found.relative_errors)
    assert (found.rounding < bound).all()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda gradient: jax.tree.map(lambda leaf: 1.01 * leaf, gradient),
        lambda gradient: gradient | {"log_l2": -gradient["log_l2"]},
        lambda gradient: gradient | {"log_l2": 0 * gradient["log_l2"]},
        lambda gradient: gradient | {"log_step": gradient["log_step"].at[7].set(0)},
    ],
    ids=["one per cent too large", "sign of a small leaf", "leaf forgotten", "step forgotten"],
)
def test_a_wrong_gradient_is_flagged(wrong):
    gradient = hypergradient(regression(), HYPER, **RUN).gradient
    assert finite_difference_check(regression(), HYPER, gradient, **RUN).worst < 1e-6
    assert finite_difference_check(regression(), HYPER, wrong(gradient), **RUN).worst > 5e-3


@pytest.mark.slow
def test_a_leaf_that_nothing_depends_on_is_no_error():
    hyper = HYPER | {"unused": jnp.zeros(3)}
    found = finite_difference_check(regression(), hyper, directions=4, **RUN)
    assert found.worst < 1e-6
    assert (found.predicted == 0).sum() == (found.measured == 0).sum() == 1


@pytest.mark.slow
def test_fewer_directions_than_leaves_still_move_every_leaf():
    gradient = hypergradient(regression(), HYPER, **RUN).gradient
    for name in HYPER:
        wrong = gradient | {name: 3 * gradient[name]}
        assert finite_difference_check(regression(), HYPER, wrong, directions=1, **RUN).worst > 1e-4


@pytest.mark.slow
def test_float32_hyperparameters_are_moved_by_what_rounding_leaves():
    hyper = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), HYPER)
    # −4 ± 1e-4 is rounded to 5e-7: a step taken as asked for would be wrong by 2e-3
    assert finite_difference_check(regression(), hyper, step=1e-4, **RUN).worst < 5e-4


def test_without_randomness_there_is_no_variance():
    run = {"optimizer": sgd(), "num_steps": 20, "keys": jax.random.split(KEY, 3)}
    found = hypergradient_variance(regression(noisy=False), HYPER, **run)
    assert found.standard_errors == dict.fromkeys(HYPER, 0.0)
    assert found.signal_to_noise == math.inf
    assert found.cosine == pytest.approx(1.0)
    assert found.as_dict()["signal_to_noise"] is None
    assert found.seeds == 3


@pytest.mark.slow
def test_variance_is_that_of_the_gradients_one_by_one():
    keys = jax.random.split(KEY, 4)
    found = hypergradient_variance(regression(), HYPER, optimizer=sgd(), num_steps=20, keys=keys)
    gradients = [hypergradient(regression(), HYPER, **RUN | {"key": key}).gradient for key in keys]
    stacked = {name: np.stack([np.ravel(one[name]) for one in gradients]) for name in HYPER}
    for name, rows in stacked.items():
        assert found.leaf_norms[name] == pytest.approx(np.linalg.norm(rows.mean(0)))
        assert found.standard_errors[name] == pytest.approx(np.linalg.norm(rows.std(0, ddof=1)) / 2)
    whole = np.concatenate(list(stacked.values()), axis=1)
    assert found.norm == pytest.approx(np.linalg.norm(whole.mean(0)))
    noise = np.linalg.norm(whole.std(0, ddof=1))
    assert found.signal_to_noise == pytest.approx(np.linalg.norm(whole.mean(0)) / noise)
    unit = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    assert found.cosine == pytest.approx(((unit @ unit.T).sum() - 4) / 12)


@pytest.mark.slow
def test_variance_tells_of_a_seed_that_diverges():
    keys = jax.random.split(KEY, 2)
    with pytest.raises(FixedPointOverflow):
        hypergradient_variance(quadratic(), jnp.array(50.0), optimizer=sgd(), num_steps=20, keys=keys)


def test_measurements_are_json():
    keys = jax.random.split(KEY, 2)
    for found in (
        adjoint_growth(regression(), HYPER, **RUN),
        metasmoothness(regression(), HYPER, **RUN),
        finite_difference_check(regression(), HYPER, directions=2, **RUN),
        hypergradient_variance(regression(), HYPER, optimizer=sgd(), num_steps=20, keys=keys),
    ):
        assert set(json.loads(json.dumps(found.as_dict(), allow_nan=False))) == set(found._fields)


@pytest.mark.parametrize("measure", [adjoint_growth, metasmoothness, finite_difference_check])
@pytest.mark.slow
def test_an_interrupt_ends_a_measurement_wherever_it_stands(measure):
    class Stop(Exception):
        pass

    asked = []
    measure(regression(), HYPER, interrupt=lambda: asked.append(1), **RUN)
    assert len(asked) >= 3
    for last in (1, len(asked)):
        left = iter(range(last - 1))

        def stop(left=left):
            if next(left, None) is None:
                raise Stop

        with pytest.raises(Stop):
            measure(regression(), HYPER, interrupt=stop, **RUN)


@pytest.mark.parametrize(
    ("measure", "change", "message"),
    [
        (adjoint_growth, {"samples": 0}, "samples is 0"),
        (adjoint_growth, {"num_steps": 0}, "num_steps is 0"),
        (adjoint_growth, {"key": jax.random.split(KEY, 2)}, "give one key"),
        (metasmoothness, {"points": 2}, "at least 3"),
        (metasmoothness, {"step": 0.0}, "above 0"),
        (metasmoothness, {"direction": {"log_l2": jnp.ones(())}}, "direction .* pytree like hyper"),
        (finite_difference_check, {"directions": 0}, "directions is 0"),
        (finite_difference_check, {"step": -1.0}, "above 0"),
        (finite_difference_check, {"gradient": HYPER | {"log_l2": jnp.ones(2)}}, "gradient .* pytree like hyper"),
        (hypergradient_variance, {"key": ..., "keys": jax.random.split(KEY, 1)}, "at least 2"),
    ],
)
def test_arguments_that_make_no_sense_are_named(measure, change, message):
    arguments = {name: value for name, value in (RUN | change).items() if value is not ...}
    with pytest.raises(InvalidProblem, match=message):
        measure(regression(), HYPER, **arguments)
