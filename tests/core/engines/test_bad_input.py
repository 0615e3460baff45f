"""What cannot be trained or differentiated is refused, by name and with the remedy."""

import jax
import jax.numpy as jnp
import pytest

from core import Problem, adam, adamw, hybrid, hypergradient, reversible, sgd, unrolled
from core.errors import InvalidProblem
from tests.core.engines.regression import STEPS, make_hyper, make_problem, run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_step": jnp.array([[1, 2]])}, "hyper.*log_step.*finite floats"),
        ({"log_scale": jnp.array([jnp.nan, 0.0])}, "hyper.*log_scale.*finite floats"),
    ],
)
def test_hyperparameters_that_cannot_be_differentiated_are_named(change, message):
    with pytest.raises(InvalidProblem, match=message):
        run(make_problem(), make_hyper() | change)


def test_parameters_that_are_not_floats_are_refused():
    problem = make_problem()
    problem = Problem(
        lambda hyper, key: {"w": jnp.arange(3)}, problem.inner_loss, problem.outer_loss, problem.schedule
    )
    with pytest.raises(InvalidProblem, match="float32 or float64"):
        run(problem, make_hyper())


def test_no_steps_are_refused():
    with pytest.raises(InvalidProblem, match="num_steps is 0"):
        run(make_problem(), make_hyper(), steps=0)


def test_32_bit_mode_is_refused(run_python):
    output = run_python(
        """
        import jax
        from core import Problem, hypergradient, sgd
        from core.errors import X64Disabled
        problem = Problem(lambda h, k: h, lambda p, h, t, k: p, lambda p, h, k: p, lambda h: {})
        try:
            hypergradient(problem, 1.0, optimizer=sgd(), num_steps=1, key=jax.random.key(0))
        except X64Disabled as error:
            print(error)
        """
    )
    assert "jax_enable_x64" in output


ENGINES = pytest.mark.parametrize("engine", [reversible(), unrolled()], ids=["reversible", "unrolled"])


def with_losses(**changes):
    problem = make_problem()
    return Problem(
        **{name: getattr(problem, name) for name in ("init", "inner_loss", "outer_loss", "schedule")} | changes
    )


@ENGINES
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inner_loss": lambda params, hyper, step, key: params["out"]}, r"inner_loss must return one real.*shape \(7,\).*mean or sum"),
        ({"outer_loss": lambda params, hyper, key: params["out"] ** 2}, r"outer_loss must return one real.*shape \(7,\)"),
        ({"inner_loss": lambda params, hyper, step, key: jnp.sum(params["out"]) * 1j}, "inner_loss.*complex128.*real part"),
        ({"outer_loss": lambda params, hyper, key: jnp.sum(params["out"]) + 0j}, "outer_loss.*complex128.*real part"),
        ({"outer_loss": lambda params, hyper, key: (jnp.sum(params["out"]), 1)}, "outer_loss must return one real.*tuple"),
        ({"inner_loss": lambda params, hyper, step, key: jnp.sum(params["out"] > 0)}, "inner_loss.*int64"),
        ({"init": lambda hyper, key: {"w": jnp.ones(3, jnp.complex128)}}, "init must return.*complex128.*cast"),
        ({"init": lambda hyper, key: {"w": jnp.ones(3, jnp.float16)}}, "init must return.*float16.*cast"),
        ({"init": lambda hyper, key: {}}, "init must return.*empty"),
        ({"schedule": lambda hyper: {"step_size": 0.1}}, "schedule must return.*momentum.*step_size"),
        ({"schedule": lambda hyper: {"step_size": 0.1, "momentum": 0.5, "b1": 0.9}}, "schedule must return.*b1"),
        ({"schedule": lambda hyper: 0.1}, "schedule must return a dict.*float"),
    ],
)  # fmt: skip
def test_functions_that_return_something_else_are_named(change, message, engine):
    with pytest.raises(InvalidProblem, match=message):
        run(with_losses(**change), make_hyper(), engine)


@ENGINES
@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"step_size": 0.1, "momentum": 1.0}, r"momentum.*is 1\.0.*\[0, 1\)"),
        ({"step_size": 0.1, "momentum": -0.1}, r"momentum.*is -0\.1.*\[0, 1\)"),
        ({"step_size": 0.1, "momentum": jnp.full(STEPS, 0.5).at[7].set(1.5)}, r"momentum.*1\.5 at \[7, 0\]"),
        ({"step_size": jnp.nan, "momentum": 0.5}, "step_size.*nan.*finite"),
        ({"step_size": jnp.inf, "momentum": 0.5}, "step_size.*inf.*finite"),
        ({"step_size": jnp.ones(STEPS - 1), "momentum": 0.5}, rf"step_size.*shape \({STEPS - 1},\).*\[{STEPS}\]"),
        ({"step_size": jnp.ones((STEPS, 3)), "momentum": 0.5}, rf"step_size.*\[{STEPS}, 2\]"),
    ],
)  # fmt: skip
def test_schedules_out_of_range_or_shape_are_named(schedule, message, engine):
    with pytest.raises(InvalidProblem, match=message):
        run(make_problem(schedule=lambda hyper: schedule), make_hyper(), engine)


@pytest.mark.parametrize(
    ("optimizer", "schedule", "message"),
    [
        (adam(), {"step_size": 0.1, "b1": 1.0}, "b1"),
        (adam(), {"step_size": 0.1, "epsilon": -1.0}, "epsilon.*at least 0"),
        (adamw(), {"step_size": 0.1, "weight_decay": -0.1}, "weight_decay.*at least 0"),
        (adamw(), {"step_size": 0.1, "weight_decay": 20.0}, "scale position of group 0 by -1.*weight_decay"),
        (adam(), {"step_size": 0.1, "b2": {"hidden": jnp.full((5, 7), 0.9), "out": jnp.full(7, 0.9)}}, "b2.*history"),
    ],
)  # fmt: skip
def test_schedules_of_other_optimizers_too(optimizer, schedule, message):
    problem = make_problem(schedule=lambda hyper: schedule)
    with pytest.raises(InvalidProblem, match=message):
        hypergradient(problem, make_hyper(), optimizer=optimizer, num_steps=STEPS, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hybrid(checkpoints=0), "checkpoints is 0.*at least 1"),
        (lambda: reversible(side_by_side=0), "side_by_side is 0.*at least 1"),
        (lambda: reversible(spill_to="/nowhere/at/all"), "spill_to.*no folder"),
    ],
)
def test_engines_that_cannot_be_are_named(make, message):
    with pytest.raises(InvalidProblem, match=message):
        make()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (jax.random.split(jax.random.key(0), (2, 2)), "key has shape"),
        (jax.random.split(jax.random.key(0), 0), "key"),
    ],
)
def test_keys_of_another_shape_are_named(key, message):
    with pytest.raises(InvalidProblem, match=message):
        run(make_problem(), make_hyper(), key=key)


def test_optimizers_are_named_where_one_is_missing():
    with pytest.raises(InvalidProblem, match=r"optimizer is .*sgd\(\)"):
        hypergradient(make_problem(), make_hyper(), optimizer=sgd, num_steps=STEPS, key=jax.random.key(0))
