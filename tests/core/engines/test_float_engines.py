"""Engines in ordinary floats: each against the unrolled one or a closed form, over short trainings."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import (
    Problem,
    adam,
    checkpointed,
    forward_mode,
    hybrid,
    hypergradient,
    implicit,
    reversible,
    sgd,
    truncated,
    unrolled,
)
from core.errors import FixedPointOverflow, InvalidProblem, SolverFailed
from tests.core.engines.regression import make_hyper, make_problem, relative_errors

STEPS = 23  # a prime: nothing divides it
KEY = jax.random.key(0, impl="unsafe_rbg")  # compiles faster
ROUNDING = 1e-10  # relative; the same sums in another order, 23 steps of them at 1e-16 each
SCHEDULES = {
    "sgd": None,
    "adam": lambda hyper: {
        "step_size": jnp.exp(hyper["log_step"] - 3),
        "b1": jax.nn.sigmoid(hyper["logit_momentum"] + 1),
    },
}
OPTIMIZERS = {"sgd": sgd(), "adam": adam()}
PROBLEMS = {name: make_problem(schedule=schedule) for name, schedule in SCHEDULES.items()}


def run(engine, name="sgd", key=KEY, **changes):
    arguments = {"optimizer": OPTIMIZERS[name], "num_steps": STEPS, "key": key} | changes
    problem, hyper = arguments.pop("problem", PROBLEMS[name]), arguments.pop("hyper", make_hyper(STEPS))
    return hypergradient(problem, hyper, engine=engine, **arguments)


@pytest.fixture(scope="module")
def oracle():
    return {name: run(unrolled(), name) for name in OPTIMIZERS}


def proves_nothing(certificate, engine, exact_for):
    assert (certificate.exact, certificate.mismatched_bits) == (False, None)
    assert (certificate.engine, certificate.mode) == (engine, "autodiff")
    assert re.search(exact_for, certificate.exact_for)


WHOLE = [
    ("sgd", "checkpointed", checkpointed("sqrt", 5)),
    ("sgd", "checkpointed", checkpointed("sqrt", 13)),
    ("sgd", "checkpointed", checkpointed("sqrt", 100)),
    ("sgd", "recursive", checkpointed("recursive", 3)),
    ("sgd", "forward_mode", forward_mode()),
    ("adam", "checkpointed", checkpointed()),
]


@pytest.mark.parametrize(("optimizer", "name", "engine"), WHOLE)
def test_the_whole_gradient_is_that_of_unrolled(oracle, optimizer, name, engine):
    found = run(engine, optimizer)
    assert max(relative_errors(found.gradient, oracle[optimizer].gradient).values()) <= ROUNDING
    assert float(abs(found.value - oracle[optimizer].value)) <= 1e-14
    proves_nothing(found.certificate, name, "every hyperparameter.*nothing is proven")
    assert engine.complete


def means_over(window, leaf):
    """Each row the mean of its window of rows."""
    parts = np.split(np.asarray(leaf), range(window, len(leaf), window))
    return np.concatenate([np.broadcast_to(part.mean(axis=0), part.shape) for part in parts])


TIMED = ("log_step", "logit_momentum")


@pytest.mark.parametrize(
    ("optimizer", "window"), [("sgd", 5), pytest.param("adam", STEPS, marks=pytest.mark.slow)]
)
def test_forward_mode_gives_each_window_its_mean(oracle, optimizer, window):
    found, whole = run(forward_mode(window=window), optimizer), oracle[optimizer].gradient
    expected = whole | {name: means_over(window, whole[name]) for name in TIMED}
    assert max(relative_errors(found.gradient, expected).values()) <= ROUNDING
    assert relative_errors(found.gradient, whole)["log_step"] > 0.1  # as it must be, or the window did nothing
    proves_nothing(found.certificate, "forward_mode", f"window of {window} steps")
    assert not forward_mode(window=window).complete


@pytest.mark.slow
def test_windows_stay_when_training_is_shortened():
    """The planner's probe trains for a few steps of the same hyperparameters, whose time axis stays as long."""
    few, base = 8, PROBLEMS["sgd"]
    first = Problem(
        base.init,
        base.inner_loss,
        base.outer_loss,
        lambda hyper: {name: rows[:few] for name, rows in base.schedule(hyper).items()},
    )
    engine = forward_mode(window=5).shortened(STEPS, few)
    assert engine.shortened(few, 4) == engine
    found = run(engine, problem=first, num_steps=few).gradient
    whole = run(unrolled(), problem=first, num_steps=few).gradient
    expected = whole | {name: means_over(5, whole[name]) for name in TIMED}
    assert max(relative_errors(found, expected).values()) <= ROUNDING


@pytest.mark.parametrize(
    ("optimizer", "last"), [("sgd", STEPS + 10), pytest.param("adam", STEPS, marks=pytest.mark.slow)]
)
def test_truncation_that_cuts_nothing_is_unrolled(oracle, optimizer, last):
    found = run(truncated(last), optimizer)
    assert max(relative_errors(found.gradient, oracle[optimizer].gradient).values()) <= ROUNDING
    proves_nothing(found.certificate, "truncated", "^every hyperparameter")


@pytest.mark.slow
def test_truncation_is_autodiff_with_the_start_held_fixed():
    """Written out apart, with a stop_gradient; what is cut off is worth something."""
    problem, hyper, steps, last = PROBLEMS["sgd"], make_hyper(5), 5, 2

    def trained(hyper):
        w = problem.init(hyper, KEY)
        v = jax.tree.map(jnp.zeros_like, w)
        schedule = problem.schedule(hyper)
        for t in range(steps):
            if t == steps - last:
                w, v = jax.lax.stop_gradient((w, v))
            g = jax.grad(problem.inner_loss)(w, hyper, t, jax.random.fold_in(KEY, t))
            a = dict(zip(("hidden", "out"), schedule["step_size"][t], strict=True))
            m = dict(zip(("hidden", "out"), schedule["momentum"][t], strict=True))
            v = {name: m[name] * v[name] - (1 - m[name]) * g[name] for name in w}
            w = {name: w[name] + a[name] * v[name] for name in w}
        return problem.outer_loss(w, hyper, KEY)

    value, gradient = jax.jit(jax.value_and_grad(trained))(hyper)
    found = run(truncated(last), num_steps=steps, hyper=hyper)
    for name in gradient:
        np.testing.assert_allclose(found.gradient[name], gradient[name], rtol=1e-9, atol=1e-14)
    assert float(abs(found.value - value)) <= 1e-14
    assert not np.asarray(found.gradient["log_scale"]).any()  # of initial weights: all of it is cut off
    assert not np.asarray(found.gradient["log_step"][: steps - last]).any()
    proves_nothing(found.certificate, "truncated", "the last steps do.*initial weights do with it is left out")
    whole = run(unrolled(), num_steps=steps, hyper=hyper).gradient
    assert max(relative_errors(found.gradient, whole).values()) > 0.1
    assert not truncated(last).complete


WEIGHTS = 30
INPUTS = jax.random.normal(jax.random.key(1), (64, WEIGHTS)).at[:, -1].set(0.0)  # couples the last weight to none
TARGETS = INPUTS @ jnp.linspace(-1, 1, WEIGHTS) + jax.random.normal(jax.random.key(2), (64,))


def ridge(read, rows=64, penalty=jnp.exp, dtype=jnp.float64):
    """Its minimum has a closed form. The outer loss reads so many of the weights, and the hyperparameters."""
    inputs, targets = INPUTS[:rows].astype(dtype), TARGETS[:rows].astype(dtype)

    def inner_loss(params, hyper, step, key):
        fit = jnp.sum((inputs @ params - targets) ** 2) / (2 * rows)
        return fit + jnp.sum(penalty(hyper).astype(dtype) * params**2) / 2

    def outer_loss(params, hyper, key):
        return jnp.sum(jnp.sin(params[:read])) + 1e-2 * jnp.sum(hyper**2).astype(params.dtype)

    def closed_form(hyper):
        hessian = INPUTS.T @ INPUTS / 64 + jnp.diag(jnp.exp(hyper))
        return outer_loss(jnp.linalg.solve(hessian, INPUTS.T @ TARGETS / 64), hyper, None)

    problem = Problem(
        lambda hyper, key: jax.random.normal(key, (WEIGHTS,), dtype),
        inner_loss,
        outer_loss,
        lambda hyper: {"step_size": 0.5, "momentum": 0.5},
    )
    return problem, closed_form


PENALTIES = jnp.linspace(-2.0, 0.0, WEIGHTS)
TOO_LONG_FROM_STEP_3 = lambda hyper: {"step_size": jnp.full(STEPS, 0.1).at[3:].set(1e9), "momentum": 0.5}  # noqa: E731


def at_the_minimum(engine, problem, key=KEY):
    return run(engine, problem=problem, hyper=PENALTIES, num_steps=600, key=key)


def error(found, expected):
    return float(jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected))


@pytest.mark.parametrize(
    ("engine", "read", "tolerance"),
    [
        (implicit(), 30, 1e-5),  # a residual of 1e-7, times a condition number of about 20
        (implicit(tolerance=1e-12), 30, 1e-11),
        (
            implicit(),
            29,
            1e-5,
        ),  # one residual stays 0: divided by its own component, also 0, it would be no number
        (implicit(), 1, 1e-5),
        (implicit("neumann", iterations=400, step_size=0.5), 29, 1e-11),  # 0.9**400 of the series is left
    ],
)
def test_implicit_gives_the_gradient_of_the_closed_form(engine, read, tolerance):
    problem, closed_form = ridge(read)
    found = at_the_minimum(engine, problem)
    assert error(found.gradient, jax.grad(closed_form)(PENALTIES)) <= tolerance
    proves_nothing(found.certificate, "implicit", "training has come to a minimum")
    assert not engine.complete


@pytest.mark.slow
def test_a_truncated_series_is_further_off():
    problem, closed_form = ridge(30)
    found = at_the_minimum(implicit("neumann", iterations=2, step_size=0.5), problem).gradient
    assert error(found, jax.grad(closed_form)(PENALTIES)) > 0.01


@pytest.mark.slow
def test_implicit_in_float32_is_accurate_to_float32():
    found = at_the_minimum(implicit(), ridge(29, dtype=jnp.float32)[0])
    assert found.params.dtype == jnp.float32
    assert error(found.gradient, jax.grad(ridge(29)[1])(PENALTIES)) <= 1e-4


def test_implicit_solves_for_many_float32_weights():
    """The minimum is the hyperparameter itself. lineax in float32 takes eigenvalues this small for zeros."""
    number = 20_000
    curvature, wanted = (jnp.linspace(low, 0.3, number, dtype=jnp.float32) for low in (0.05, -0.3))
    problem = Problem(
        lambda hyper, key: hyper,
        lambda params, hyper, step, key: jnp.sum(curvature * (params - hyper) ** 2) / 2,
        lambda params, hyper, key: jnp.sum(wanted * params),
        lambda hyper: {"step_size": 0.5, "momentum": 0.5},
    )
    found = run(implicit(), problem=problem, hyper=jnp.ones(number, jnp.float32), num_steps=1)
    assert error(found.gradient, wanted) <= 1e-5


@pytest.mark.slow
def test_an_outer_loss_that_reads_no_weight_has_its_own_gradient():
    for solver in ("cg", "neumann"):
        found = at_the_minimum(implicit(solver), ridge(0)[0])
        np.testing.assert_allclose(found.gradient, 2e-2 * PENALTIES, rtol=1e-15)


@pytest.mark.slow
def test_training_without_a_strict_minimum_fails():
    """20 equations for 30 weights, and no penalty: what the outer loss wants lies in no range of the Hessian."""
    flat, _ = ridge(30, rows=20, penalty=jnp.zeros_like)
    with pytest.raises(SolverFailed, match="cg left a relative residual.*strict minimum"):
        at_the_minimum(implicit(), flat)
    assert np.isfinite(at_the_minimum(implicit(damping=0.1), flat).gradient).all()


def curved(*curvatures, start, read=1.0):
    """Its one stationary point is the hyperparameter."""
    bend = jnp.array(curvatures)
    return Problem(
        lambda hyper, key: hyper + start * jnp.ones(len(bend)),
        lambda params, hyper, step, key: jnp.sum(bend * (params - hyper) ** 2) / 2,
        lambda params, hyper, key: jnp.sum(read * params),
        lambda hyper: {"step_size": 0.1, "momentum": 0.5},
    )


FAR = "not come to a minimum.* away or more, above farthest, 0.02; train for more"


@pytest.mark.parametrize(
    ("engine", "curvatures", "start", "read", "message"),
    [
        (implicit(), (-1.0, -2.0), 0.0, 1.0, "no strict minimum.*curvature there is -1.2"),  # a maximum
        (implicit(), (1.0, -0.5), 0.0, 1.0, "no strict minimum.*curvature there is -0.2.*damping"),  # a saddle
        (implicit("neumann", iterations=2, tolerance=5), (-1.0, -2.0), 0.0, 1.0, "no strict minimum"),
        (implicit(), (1e-3, -1.0), (0.0, 0.1), (1.0, 0.0), "not come to a minimum.*does not curve upward; train"),
        (implicit(), (1.0, 2.0), 0.5, 1.0, FAR),
        (implicit("neumann"), (1.0, 2.0), 0.5, 1.0, FAR),
        (implicit(damping=1e-3), (1.0, 2.0), 0.5, 1.0, FAR),
    ],
)
def test_what_is_no_minimum_is_refused(engine, curvatures, start, read, message):
    problem = curved(*curvatures, start=jnp.asarray(start), read=jnp.asarray(read))
    with pytest.raises(SolverFailed, match=message):
        run(engine, problem=problem, hyper=jnp.ones(2), num_steps=3)


@pytest.mark.parametrize("start", [0.0, 1e-12, 1e-3, 1.0, 100.0])
@pytest.mark.parametrize("minimum", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_training_that_comes_to_a_minimum_is_never_refused(minimum, start, dtype):
    """From near or far, to weights that are zero or not."""
    hyper = jnp.full(3, minimum, dtype)
    base = curved(1.0, 2.0, 5.0, start=jnp.asarray(start, dtype))
    problem = Problem(
        lambda hyper, key: base.init(hyper, key).astype(dtype),
        lambda params, hyper, step, key: base.inner_loss(params, hyper, step, key).astype(dtype),
        base.outer_loss,
        base.schedule,
    )
    found = run(implicit(), problem=problem, hyper=hyper, num_steps=400)
    np.testing.assert_allclose(found.gradient, 1.0, rtol=1e-5)


def test_a_rough_hypergradient_may_be_asked_for():
    found = run(implicit(farthest=1.0), problem=curved(1.0, 2.0, start=0.5), hyper=jnp.ones(2), num_steps=3)
    np.testing.assert_allclose(found.gradient, 1.0, rtol=1e-6)


def test_a_probe_need_not_come_to_a_minimum():
    shorter = implicit().shortened(400, 3)
    assert run(shorter, problem=curved(1.0, 2.0, start=0.5), hyper=jnp.ones(2), num_steps=3).certificate


@pytest.mark.parametrize(
    "engine",
    [unrolled(), checkpointed("sqrt", 5), forward_mode(window=5), truncated(STEPS + 10)],
    ids=lambda engine: engine.name,
)
@pytest.mark.slow
def test_several_keys_average(engine):
    """Engines that are compiled above."""
    keys = jax.random.split(KEY, 3)
    together, apart = run(engine, key=keys), [run(engine, key=key) for key in keys]
    assert (together.certificate.runs, len(together.params)) == (3, 3)
    proves_nothing(together.certificate, engine.name, "")
    assert float(together.value) == pytest.approx(np.mean([float(one.value) for one in apart]), abs=1e-15)
    for name in together.gradient:
        mean = np.mean([one.gradient[name] for one in apart], axis=0)
        np.testing.assert_allclose(together.gradient[name], mean, rtol=1e-12, atol=1e-18)


@pytest.mark.slow
def test_several_keys_of_the_implicit_engine_find_one_minimum():
    problem, closed_form = ridge(30)
    found = at_the_minimum(implicit(), problem, jax.random.split(KEY, 2))
    assert found.certificate.runs == 2
    np.testing.assert_allclose(*found.params, rtol=1e-10, atol=1e-14)
    assert error(found.gradient, jax.grad(closed_form)(PENALTIES)) <= 1e-5


@pytest.mark.parametrize(
    "engine",
    [
        checkpointed(),
        *(
            pytest.param(engine, marks=pytest.mark.slow)
            for engine in (checkpointed("recursive"), forward_mode(), truncated(4), implicit())
        ),
    ],
    ids=lambda engine: engine.name,
)
def test_divergence_names_the_step(engine):
    problem, _ = ridge(30)
    problem = Problem(problem.init, problem.inner_loss, problem.outer_loss, TOO_LONG_FROM_STEP_3)
    with pytest.raises(FixedPointOverflow) as caught:
        run(engine, problem=problem, hyper=PENALTIES)
    assert caught.value.step == 3


@pytest.mark.slow
def test_checkpoints_cut_training_into_even_segments():
    """501 of 1000 steps once left a last segment of half of them, which took more memory than unrolling."""
    arguments = ridge(30)[0], PENALTIES, OPTIMIZERS["sgd"], 1000, KEY
    many, fewer, none = (
        engine.memory(*arguments).device_bytes
        for engine in (checkpointed("sqrt", 501), checkpointed("sqrt", 500), unrolled())
    )
    assert many == fewer < none


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: checkpointed("cubic"), "method is 'cubic'.*'sqrt' or 'recursive'"),
        (lambda: checkpointed(checkpoints=2.5), r"checkpoints is 2\.5.*give an int, at least 1"),
        (lambda: checkpointed(checkpoints=True), "checkpoints is True.*give an int"),
        (lambda: checkpointed("recursive", 0), "checkpoints is 0.*at least 1"),
        (lambda: truncated(1.5), r"last is 1\.5.*give an int"),
        (lambda: truncated(0), "last is 0.*at least 1"),
        (lambda: hybrid(checkpoints=2.5), r"checkpoints is 2\.5.*give an int"),
        (lambda: reversible(side_by_side="2"), "side_by_side is '2'.*give an int"),
        (lambda: forward_mode(at_once=0.5), r"at_once is 0\.5.*give an int"),
        (lambda: forward_mode(window=False), "window is False.*give an int"),
        (lambda: implicit("lu"), "solver is 'lu'.*'cg' or 'neumann'"),
        (lambda: implicit(iterations=1e3), r"iterations is 1000\.0.*give an int"),
        (lambda: implicit(damping=float("nan")), "damping is nan.*finite and at least 0"),
        (lambda: implicit(step_size=float("inf")), "step_size is inf.*finite and positive"),
        (lambda: implicit(tolerance=float("nan")), "tolerance is nan.*finite and positive"),
        (lambda: implicit(tolerance=0), "tolerance is 0.*finite and positive"),
        (lambda: implicit(farthest=0), "farthest is 0.*positive"),
        (lambda: implicit(farthest=float("nan")), "farthest is nan.*positive"),
    ],
)
def test_engines_that_cannot_be_are_named(make, message):
    with pytest.raises(InvalidProblem, match=message):
        make()


def test_whole_numbers_of_any_kind_are_taken():
    assert truncated(np.int32(3)) == truncated(3)
    assert hybrid(checkpoints=jnp.asarray(2)).checkpoints == 2
