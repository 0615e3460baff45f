import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import Problem, reversible, unrolled
from core.engines import training as training_module
from core.errors import FixedPointOverflow, UncertifiedGradient
from tests.core.engines.regression import (
    INPUTS,
    STEPS,
    TARGETS,
    drifting_problem,
    make_hyper,
    make_problem,
    relative_errors,
    run,
)


def test_every_hyperparameter_kind_matches_unrolled_autodiff_in_float64():
    problem, hyper = make_problem(), make_hyper()
    exact, oracle = run(problem, hyper, reversible()), run(problem, hyper, unrolled())
    assert exact.certificate.exact
    errors = relative_errors(exact.gradient, oracle.gradient)
    print("relative error against float64 unrolled autodiff:", errors)
    assert max(errors.values()) <= 1e-8  # the state's resolution is 1e-12; ten steps' worth of it reaches 1e-11
    assert float(abs(exact.value - oracle.value)) <= 1e-10


@pytest.mark.slow
def test_unrolled_engine_matches_autodiff_written_out():
    """A second implementation of the dynamics, so that the oracle is not its own witness."""
    problem, key = make_problem(), jax.random.key(0)

    def trained(hyper):
        w = problem.init(hyper, key)
        v = jax.tree.map(jnp.zeros_like, w)
        schedule = problem.schedule(hyper)
        for t in range(20):
            g = jax.grad(problem.inner_loss)(w, hyper, t, jax.random.fold_in(key, t))
            a = dict(zip(("hidden", "out"), schedule["step_size"][t], strict=True))
            m = dict(zip(("hidden", "out"), schedule["momentum"][t], strict=True))
            v = {name: m[name] * v[name] - (1 - m[name]) * g[name] for name in w}
            w = {name: w[name] + a[name] * v[name] for name in w}
        return problem.outer_loss(w, hyper, key)

    short = make_hyper(20)
    value, gradient = jax.jit(jax.value_and_grad(trained))(short)
    result = run(problem, short, unrolled(), steps=20)
    assert max(relative_errors(result.gradient, gradient).values()) <= 1e-12
    assert float(abs(result.value - value)) <= 1e-14


def test_directional_derivatives_match_finite_differences():
    problem, hyper = make_problem(), make_hyper()
    gradient = run(problem, hyper).gradient
    for name in hyper:
        direction = jax.random.normal(jax.random.key(9), hyper[name].shape)
        step = 1e-4 / float(jnp.linalg.norm(direction))
        ahead = run(problem, hyper | {name: hyper[name] + step * direction}).value
        behind = run(problem, hyper | {name: hyper[name] - step * direction}).value
        # central differences: truncation 1e-8 and fixed-point noise 1e-12 / 1e-4, both relative to about 1e-3
        assert float((ahead - behind) / (2 * step)) == pytest.approx(
            float(jnp.vdot(gradient[name], direction)), rel=1e-4, abs=1e-7
        )


def test_float32_compute_is_accurate_to_float32():
    exact = run(make_problem(jnp.float32), make_hyper())
    oracle = run(make_problem(jnp.float64), make_hyper(), unrolled())
    assert exact.params["hidden"].dtype == jnp.float32
    assert exact.certificate.exact
    # 120 steps of float32 gradients, each right to 6e-8, against float64 ones
    assert max(relative_errors(exact.gradient, oracle.gradient).values()) <= 1e-5


@pytest.mark.parametrize("mode", ["fused", "isolated"])
def test_both_modes_are_exact_and_agree(mode, monkeypatch):
    problem, hyper = make_problem(jnp.float32), make_hyper()
    monkeypatch.setattr(training_module, "_habits_of", lambda program: training_module.Habits(mode=mode))
    result = run(problem, hyper)
    assert (result.certificate.exact, result.certificate.mode) == (True, mode)
    oracle = run(make_problem(), hyper, unrolled())
    assert max(relative_errors(result.gradient, oracle.gradient).values()) <= 1e-5


def test_buffer_certificate_states_the_bits_beside_the_bound():
    steps = 2000
    hyper = make_hyper(steps)
    certificate = run(make_problem(), hyper, steps=steps).certificate
    momentum = jax.nn.sigmoid(hyper["logit_momentum"])
    bound = float(jnp.sum(jnp.mean(-jnp.log2(momentum), axis=0) * jnp.array([35, 7])) / 42)
    assert certificate.bound_bits_per_param_step == pytest.approx(bound)
    assert certificate.stored_bits_per_param_step <= 1.05 * bound


SCHEDULES = {
    "scalar": lambda hyper: {"step_size": jnp.exp(hyper["log_step"][0, 0]), "momentum": 0.9},
    "per step": lambda hyper: {
        "step_size": jnp.exp(hyper["log_step"][:, 0]),
        "momentum": jax.nn.sigmoid(hyper["logit_momentum"][:, 0]),
    },
    "per group": lambda hyper: {
        "step_size": jnp.exp(hyper["log_step"][:1]),
        "momentum": jax.nn.sigmoid(hyper["logit_momentum"][:1]),
    },
    "per weight": lambda hyper: {
        "step_size": {"hidden": jnp.exp(hyper["log_l2"] + 3), "out": jnp.exp(hyper["log_step"][:7, 0])},
        "momentum": {"hidden": jax.nn.sigmoid(hyper["log_l2"] + 5), "out": jnp.asarray(0.5)},
    },
    "no momentum": lambda hyper: {"step_size": jnp.exp(hyper["log_step"]), "momentum": 0.0},
    "momentum comes and goes": lambda hyper: {
        "step_size": 0.1,
        "momentum": jnp.where(jnp.arange(STEPS) % 10 == 0, 0.0, jax.nn.sigmoid(hyper["logit_momentum"][:, 0])),
    },
}


FAST = ("momentum comes and goes",)


@pytest.mark.parametrize(
    "kind", [kind if kind in FAST else pytest.param(kind, marks=pytest.mark.slow) for kind in SCHEDULES]
)
def test_every_shape_of_schedule_matches_unrolled_autodiff(kind):
    problem, hyper = make_problem(schedule=SCHEDULES[kind]), make_hyper()
    exact, oracle = run(problem, hyper), run(problem, hyper, unrolled())
    assert exact.certificate.exact
    for name, error in relative_errors(exact.gradient, oracle.gradient).items():
        assert np.isnan(error) or error <= 1e-8, name  # nan: 0/0, where this schedule does not read the leaf


@pytest.mark.slow
def test_gradient_of_a_momentum_at_zero_is_that_of_a_small_one():
    """γ = 0 is reversed by a rule of its own; its derivative must not jump there."""

    def schedule(hyper):
        return {"step_size": 0.1, "momentum": hyper["momentum"]}

    def gradient_at(momentum):
        hyper = make_hyper() | {"momentum": jnp.full(STEPS, momentum)}
        return run(make_problem(schedule=schedule), hyper).gradient["momentum"]

    np.testing.assert_allclose(gradient_at(0.0), gradient_at(1e-6), rtol=1e-4, atol=1e-9)


@pytest.mark.slow
def test_groups_may_differ_in_precision_and_hyperparameters_may_be_float32():
    problem = make_problem()

    def init(hyper, key):
        params = problem.init(hyper, key)
        return params | {"out": params["out"].astype(jnp.float32)}

    mixed = Problem(init, problem.inner_loss, problem.outer_loss, problem.schedule)
    hyper = make_hyper(dtype=jnp.float32)
    exact, oracle = run(mixed, hyper), run(mixed, hyper, unrolled())
    assert exact.certificate.exact
    assert {name: leaf.dtype for name, leaf in exact.gradient.items()} == dict.fromkeys(hyper, jnp.float32)
    assert max(relative_errors(exact.gradient, oracle.gradient).values()) <= 1e-5


@pytest.mark.slow
def test_parameters_may_be_one_bare_array():
    problem = Problem(
        init=lambda hyper, key: jax.random.normal(key, (5,)),
        inner_loss=lambda params, hyper, step, key: jnp.mean((INPUTS @ params - TARGETS) ** 2),
        outer_loss=lambda params, hyper, key: jnp.mean((INPUTS @ params - TARGETS) ** 2),
        schedule=lambda hyper: {"step_size": jnp.exp(hyper), "momentum": 0.5},
    )
    for hyper in (jnp.array(-2.0), jnp.full(30, -2.0), jnp.full(5, -2.0)):  # one, one a step, one a weight
        exact, oracle = run(problem, hyper, steps=30), run(problem, hyper, unrolled(), steps=30)
        assert exact.certificate.exact
        np.testing.assert_allclose(exact.gradient, oracle.gradient, rtol=1e-8)


def test_several_keys_are_averaged():
    problem, hyper = make_problem(), make_hyper()
    keys = jax.random.split(jax.random.key(7), 3)
    together = run(problem, hyper, key=keys)
    apart = [run(problem, hyper, key=key) for key in keys]
    assert float(together.value) == pytest.approx(np.mean([float(one.value) for one in apart]), abs=1e-15)
    np.testing.assert_allclose(
        together.gradient["log_step"],
        np.mean([one.gradient["log_step"] for one in apart], axis=0),
        rtol=1e-12,
    )
    assert len(together.params) == 3


def test_the_same_call_gives_the_same_bits():
    problem, hyper = make_problem(jnp.float32), make_hyper()
    for left, right in zip(
        jax.tree.leaves(run(problem, hyper)[:3]), jax.tree.leaves(run(problem, hyper)[:3]), strict=True
    ):
        np.testing.assert_array_equal(left, right)


def test_a_loss_that_is_not_deterministic_is_refused():
    with pytest.raises(UncertifiedGradient, match="deterministic"):
        run(drifting_problem(), make_hyper())


def test_the_fallback_is_taken_and_says_that_it_proves_nothing():
    result = run(drifting_problem(), make_hyper(), reversible(fallback=unrolled()))
    assert (result.certificate.engine, result.certificate.exact) == ("unrolled", False)


@pytest.mark.parametrize("engine", [reversible(), unrolled()], ids=["reversible", "unrolled"])
def test_divergence_names_step_and_group(engine):
    problem = make_problem(schedule=lambda hyper: {"step_size": 1e9, "momentum": 0.5})
    with pytest.raises(FixedPointOverflow) as caught:
        run(problem, make_hyper(), engine)
    assert caught.value.group in {"hidden", "out"}
    assert caught.value.step == 0


def test_a_state_that_leaves_the_range_and_returns_is_divergence():
    """The range is looked at between chunks only; the certificate is what catches an excursion in between."""
    step_sizes = jnp.zeros(STEPS).at[50].set(1e7).at[51].set(-1e7)
    problem = make_problem(schedule=lambda hyper: {"step_size": step_sizes, "momentum": 1 - 1e-12})
    problem = Problem(
        problem.init,
        lambda params, hyper, step, key: 1e9 * jnp.sum(params["out"]),
        problem.outer_loss,
        problem.schedule,
    )
    with pytest.raises(FixedPointOverflow) as caught:
        run(problem, make_hyper())
    assert caught.value.step in {50, 51}
