"""What cannot be trained or differentiated is refused, by name and with the remedy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from core import Problem, adam, adamw, hybrid, hypergradient, reversible, sgd, unrolled
from core.diagnostics import adjoint_growth
from core.engines import automatic, checkpointed, forward_mode, implicit, plan, truncated
from core.engines.arguments import checked
from core.engines.training import train
from core.errors import FixedPointOverflow, InvalidProblem, NotFinite
from core.reversal.schedule import check, normalize, prepare
from tests.core.engines.regression import STEPS, make_hyper, make_problem, run

KEY = jax.random.key(0)
SMALL = Problem(
    lambda hyper, key: {"w": jnp.ones(2)},
    lambda params, hyper, step, key: jnp.sum(params["w"] ** 2),
    lambda params, hyper, key: jnp.sum(params["w"]) + hyper,
    lambda hyper: {"step_size": 0.1, "momentum": 0.5},
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_step": jnp.array([[1, 2]])}, "hyper.*log_step.*finite floats"),
        ({"log_scale": jnp.array([jnp.nan, 0.0])}, "hyper.*log_scale.*finite floats.*nan"),
        ({"log_scale": 3}, "hyper.*log_scale.*finite floats.*int"),
        ({"log_scale": "wide"}, "hyper.*log_scale.*finite floats, not 'wide'"),
        ({"log_scale": jnp.ones(2) * 1j}, "hyper.*log_scale.*finite floats.*complex128"),
        ({"log_scale": jax.random.key(0)}, "hyper.*log_scale.*finite floats.*key"),
        ({"log_scale": {"deep": [np.float32(1), -np.inf]}}, r"hyper\['log_scale'\]\['deep'\]\[1\].*infinity"),
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


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (0, "num_steps is 0.*at least 1"),
        (True, "num_steps is True, a bool"),
        (10.0, r"num_steps is 10\.0, a float; give an int"),
        (jnp.array(10.0), "num_steps is .*give an int"),
        (jnp.array([10]), "num_steps is .*give an int"),
        ("10", "num_steps is '10', a str"),
        (None, "num_steps is None"),
        (2**31, "num_steps is 2147483648; it must be at most 2147483647"),
        (2**63, "num_steps is 9223372036854775808; it must be at most 2147483647"),
    ],
)
def test_numbers_of_steps_that_are_none_are_refused(steps, message):
    with pytest.raises(InvalidProblem, match=message):
        run(make_problem(), make_hyper(), steps=steps)


@pytest.mark.parametrize("steps", [STEPS, np.int64(STEPS), jnp.array(STEPS)])
@pytest.mark.parametrize("key", [jax.random.PRNGKey(7), jax.random.key(7), np.array([0, 7], np.uint32)])
def test_integers_and_keys_of_any_kind_come_to_one_form(steps, key):
    problem = with_losses(init=SMALL.init)
    found = checked(problem, {"x": 1.0, "y": [np.float32(2)]}, sgd(), steps, key)
    assert type(found.num_steps) is int
    assert found.keys == jax.random.key(7)
    assert [leaf.dtype for leaf in jax.tree.leaves(found.hyper)] == [jnp.float64, jnp.float32]


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
        (lambda: reversible(spill_to=3), "spill_to is 3 of type int; give the path of a folder"),
        (lambda: hybrid(checkpoints=2, spill_to=b"/tmp"), "spill_to is b'/tmp' of type bytes"),
        (lambda: reversible(spill_to="/proc"), r"spill_to is '/proc', where no file can be made \(.*write to"),
        (lambda: reversible(interrupt=3), r"interrupt is 3; give a function of \(\)"),
        (lambda: reversible(interrupt=None), "interrupt is None; give a function"),
        (
            lambda: hybrid(checkpoints=2, interrupt=lambda step: None),
            r"interrupt takes \(step\), but is called with \(\)",
        ),
        (lambda: reversible(fallback="unrolled"), r"fallback is 'unrolled'; give an engine, like unrolled\(\)"),
        (lambda: reversible(fallback=unrolled), r"fallback is unrolled; call it: unrolled\(\)"),
        (lambda: automatic(device_budget="1G"), r"device_budget \(bytes\) is '1G', a str; give an int"),
        (lambda: automatic(device_budget=-1), r"device_budget \(bytes\) is -1; it must be at least 0"),
        (lambda: automatic(host_budget=1.5), r"host_budget \(bytes\) is 1\.5, a float"),
        (
            lambda: plan(SMALL, 1.0, optimizer=sgd(), num_steps=3, key=KEY, host_budget=True),
            "host_budget .* a bool",
        ),
        (
            lambda: plan(SMALL, 1.0, optimizer=sgd(), num_steps=3, key=KEY, engines=["unrolled"]),
            "engines is 'unrolled'",
        ),
    ],
)
def test_engines_that_cannot_be_are_named(make, message):
    with pytest.raises(InvalidProblem, match=message):
        make()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (jax.random.split(jax.random.key(0), (2, 2)), "key has shape"),
        (jax.random.split(jax.random.key(0), 0), "key has shape"),
        (0, "key is 0; give a jax.random.key"),
        ([jax.random.key(0)], "(?s)key is .*; give a jax.random.key.*jnp.stack"),
        (jnp.zeros(3, jnp.uint32), r"key is an array of uint32 and shape \(3,\); give"),
        (jnp.zeros(2), "key is an array of float64"),
        (jnp.zeros((), jnp.uint32), r"key is an array of uint32 and shape \(\)"),
    ],
)
def test_keys_of_another_kind_or_shape_are_named(key, message):
    with pytest.raises(InvalidProblem, match=message):
        run(make_problem(), make_hyper(), key=key)


def test_a_missing_key_is_named():
    with pytest.raises(InvalidProblem, match="key is None; give a jax.random.key"):
        hypergradient(make_problem(), make_hyper(), optimizer=sgd(), num_steps=STEPS, key=None)


@pytest.mark.parametrize("optimizer", [sgd, "sgd", None])
def test_optimizers_are_named_where_one_is_missing(optimizer):
    with pytest.raises(InvalidProblem, match=r"optimizer is .*sgd\(\)"):
        hypergradient(make_problem(), make_hyper(), optimizer=optimizer, num_steps=STEPS, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (reversible, r"engine is reversible; call it: reversible\(\)"),
        (type(unrolled()), "engine is Unrolled; call it"),
        ("reversible", r"engine is 'reversible'; give an engine, like reversible\(\)"),
        ("", "engine is ''; give an engine"),
    ],
)
def test_what_is_no_engine_is_named(engine, message):
    with pytest.raises(InvalidProblem, match=message):
        run(make_problem(), make_hyper(), engine)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: None, "problem is None; give a Problem"),
        (lambda: Problem, "problem is .*; give a Problem"),
        (lambda: with_losses(inner_loss=3.0), r"problem\.inner_loss is 3\.0; give a function of \(params, hyper, step, key\)"),
        (lambda: with_losses(init=lambda hyper: hyper), r"problem\.init takes \(hyper\), but is called with \(hyper, key\).*too many"),
        (lambda: with_losses(schedule=lambda hyper, key: {}), r"problem\.schedule takes .*missing.*'key'"),
        (lambda: with_losses(outer_loss=Partial(lambda a, p, h: 0.0, 1.0)), r"problem\.outer_loss takes"),
        (lambda: with_losses(init=lambda hyper, key: {"w": 1.5}), r"init must return.*not 1\.5 in \['w'\], a float.*jnp\.asarray"),
        (lambda: with_losses(init=lambda hyper, key: "w"), "init must return.*not 'w', a str"),
        (lambda: with_losses(init=lambda hyper, key: {"hidden": jnp.ones((5, 7)), "out": jnp.full(7, jnp.nan)}), r"init returned nan.*\['out'\]"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("engine", [reversible(), unrolled()], ids=["reversible", "unrolled"])
def test_problems_that_cannot_be_called_are_named(make, message, engine):
    with pytest.raises(InvalidProblem, match=message):
        run(make(), make_hyper(), engine)


@pytest.mark.parametrize(
    ("within", "name"),
    [
        (lambda call: jax.jit(lambda x: call(hyper=x))(1.0), "hyper"),
        (lambda call: jax.grad(lambda x: call(hyper=x))(1.0), "hyper"),
        (lambda call: jax.jit(lambda key: call(key=key))(jax.random.key(0)), "key"),
        (lambda call: jax.jit(lambda key: call(key=key))(jax.random.PRNGKey(0)), "key"),
        (lambda call: jax.vmap(lambda key: call(key=key))(jax.random.split(jax.random.key(0), 2)), "key"),
        (lambda call: jax.jit(lambda steps: call(num_steps=steps))(3), "num_steps"),
        (lambda call: jax.jit(lambda x: call() + x)(1.0), "hyper"),
    ],
)
def test_it_says_that_it_is_no_part_of_a_traced_program(within, name):
    def call(hyper=1.0, num_steps=3, key=KEY):
        return hypergradient(SMALL, hyper, optimizer=sgd(), num_steps=num_steps, key=key).gradient

    with pytest.raises(InvalidProblem, match=f"{name} is traced: .*call it outside jax.jit"):
        within(call)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hyper": jnp.nan}, "hyper must hold finite floats"),
        ({"optimizer": sgd}, r"sgd\(\)"),
        ({"num_steps": 3.0}, "give an int"),
        ({"key": 0}, "key is 0"),
        ({"key": jax.random.split(jax.random.key(0), 2)}, "give one key"),
    ],
)
def test_measurements_refuse_the_same(change, message):
    arguments = {"hyper": 1.0, "optimizer": sgd(), "num_steps": 3, "key": jax.random.key(0)} | change
    with pytest.raises(InvalidProblem, match=message):
        adjoint_growth(SMALL, **arguments)


@pytest.mark.parametrize(
    "engine", [reversible(), hybrid(checkpoints=2), unrolled(), checkpointed(), forward_mode()]
)
@pytest.mark.parametrize("keys", [jax.random.key(0), jax.random.split(jax.random.key(0), 2)], ids=["one", "two"])
@pytest.mark.parametrize(
    ("outer_loss", "message"),
    [
        (lambda params, hyper, key: jnp.log(hyper - 1) + jnp.sum(params["w"]), "outer loss is -inf"),
        # the root of 0 has no slope
        (
            lambda params, hyper, key: jnp.sqrt(hyper - 1) + jnp.sum(params["w"]),
            "outer loss is [0-9].* norm .* inf",
        ),
    ],
    ids=["value", "gradient"],
)
def test_what_is_not_finite_gets_no_certificate(outer_loss, message, keys, engine):
    problem = Problem(SMALL.init, SMALL.inner_loss, outer_loss, SMALL.schedule)
    with pytest.raises(NotFinite, match=message):
        hypergradient(problem, 1.0, optimizer=sgd(), num_steps=3, key=keys, engine=engine)


def test_large_float32_gradients_are_finite():
    problem = Problem(SMALL.init, SMALL.inner_loss, lambda params, hyper, key: 1e30 * hyper, SMALL.schedule)
    found = hypergradient(problem, jnp.float32(1), optimizer=sgd(), num_steps=3, key=jax.random.key(0))
    assert found.gradient == jnp.float32(1e30)


PARAMS = {"w": jnp.ones((2, 3)), "none": jnp.ones((0, 3))}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.1j, "'step_size' is complex128; give real"),
        (jnp.ones(9) * 1j, "'step_size' is complex128; give real"),
        ({"w": 1j, "none": 0.1}, "'step_size' is complex128; give real"),
        ("fast", "'step_size' holds 'fast', a str; give numbers"),
        (object(), "'step_size' holds <object.*give numbers"),
        (jax.random.key(0), "'step_size' is key.*give numbers"),
        (None, r"'step_size' is None; give a scalar, \[9\]"),
        ([0.1] * 9, r"'step_size' is a list of 9.*jnp\.array"),
        (jnp.ones(8), r"'step_size' has shape \(8,\); give a scalar, \[9\] \(steps\), \[9, 2\]"),
        ({"w": jnp.ones(2), "none": 0.1}, r"'step_size' has leaves of shapes .*\(2,\).* do not broadcast .*\(2, 3\).*; give"),
        ({"w": 0.1}, "'step_size' has shape .*; give a scalar"),
    ],
)  # fmt: skip
def test_schedules_of_another_kind_are_named(value, message):
    with pytest.raises(InvalidProblem, match=f"schedule {message}"):
        normalize({"step_size": value, "momentum": 0.5}, sgd(), PARAMS, 9)


def test_groups_without_weights_have_schedules():
    schedule = normalize({"step_size": jax.tree.map(jnp.ones_like, PARAMS), "momentum": 0.5}, sgd(), PARAMS, 9)
    check(schedule, sgd())
    with pytest.raises(InvalidProblem, match="momentum"):
        check(normalize({"step_size": 0.1, "momentum": {"w": 2.0, "none": 2.0}}, sgd(), PARAMS, 9), sgd())


def test_a_mistake_within_prepare_is_not_taken_for_the_schedules():
    optimizer = sgd()._replace(prepare=lambda rows: {"step_size": rows["typo"]})
    with pytest.raises(KeyError, match="typo"):
        prepare(normalize({"step_size": 0.1, "momentum": 0.5}, optimizer, PARAMS, 9), optimizer, 9)
    optimizer = sgd()._replace(prepare=lambda rows: rows | {"twice": 2 * rows["step_size"]})
    prepared = prepare(normalize({"step_size": 0.1, "momentum": 0.5}, optimizer, PARAMS, 9), optimizer, 9)
    assert prepared.rows["twice"].shape == (9, 2)
    with pytest.raises(InvalidProblem, match="step_size.*history"):
        prepare(normalize({"step_size": PARAMS, "momentum": 0.5}, optimizer, PARAMS, 9), optimizer, 9)


EVERY_ENGINE = pytest.mark.parametrize(
    "engine",
    [reversible(), hybrid(checkpoints=2), unrolled(), checkpointed(), forward_mode(), truncated(2), implicit()],
    ids=lambda engine: engine.name,
)


def small(engine, hyper=1.0, **changes):
    problem = Problem(
        **{name: getattr(SMALL, name) for name in ("init", "inner_loss", "outer_loss", "schedule")} | changes
    )
    return hypergradient(problem, hyper, optimizer=sgd(), num_steps=3, key=KEY, engine=engine)


@EVERY_ENGINE
@pytest.mark.parametrize("params", [{"w": jnp.ones(0)}, {"w": jnp.ones((0, 3)), "v": jnp.ones((2, 0))}])
def test_parameters_without_a_weight_are_refused(params, engine):
    with pytest.raises(
        InvalidProblem, match=r"init must return at least one weight.*\(0.*: there is nothing to train"
    ):
        small(engine, init=lambda hyper, key: params)


MIXED = {"w": jnp.ones(2), 1: jnp.ones(2)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hyper": {"a": 1.0, 1: 2.0}}, "hyper is no pytree"),
        ({"hyper": [{"a": {None: 1.0, "b": 2.0}}]}, "hyper is no pytree"),
        ({"init": lambda hyper, key: MIXED}, "what init returned is no pytree"),
        ({"schedule": lambda hyper: {"step_size": 0.1, "momentum": MIXED}}, "schedule 'momentum' is no pytree"),
        ({"inner_loss": Partial(lambda data, *others: 0.0, MIXED)}, "problem is no pytree"),
    ],
)
@ENGINES
def test_keys_of_mixed_types_are_named(change, message, engine):
    with pytest.raises(InvalidProblem, match=f"{message} that can be flattened.*keys of each dict one type"):
        small(engine, **change)


@EVERY_ENGINE
@pytest.mark.parametrize("largest", [4096.0, -5000.0, 1e9])
def test_initial_weights_out_of_range_are_named(largest, engine):
    start = {"w": jnp.ones(2), "v": jnp.array([1.0, largest])}
    with pytest.raises(
        InvalidProblem, match=r"init returned weights of up to .* in \['v'\], outside the range ±4096"
    ):
        small(engine, init=lambda hyper, key: start)


def test_training_alone_and_several_runs_name_them_too():
    problem = Problem(
        lambda hyper, key: {"w": jnp.full(2, 5e3)}, SMALL.inner_loss, SMALL.outer_loss, SMALL.schedule
    )
    with pytest.raises(InvalidProblem, match="outside the range ±4096"):
        train(problem, 1.0, optimizer=sgd(), num_steps=3, key=KEY)
    with pytest.raises(InvalidProblem, match="outside the range ±4096"):
        hypergradient(problem, 1.0, optimizer=sgd(), num_steps=3, key=jax.random.split(KEY, 2))


def test_a_start_within_the_range_is_not_blamed():
    with pytest.raises(FixedPointOverflow, match="lower the step size"):
        small(None, schedule=lambda hyper: {"step_size": 1e9, "momentum": 0.0})


def test_overflows_say_which_number_left_the_range():
    error = FixedPointOverflow(step=3, group="w", largest=5e3, limit=4096.0)
    assert str(error).startswith(
        "training diverged: w reached 5e+03 at step 3, beyond the fixed-point range ±4096; lower"
    )
    assert error.details() == {"step": 3, "group": "w", "field": "position", "largest": 5e3}
    error = FixedPointOverflow(step=3, group="w", largest=float("inf"), limit=1.5e17, field="last_gradient")
    assert "the last gradient that the optimizer keeps of w reached a value that is not finite" in str(error)
    assert "±1.5e+17; its gradients grew too large" in str(error)
    assert error.details()["field"] == "last_gradient"
