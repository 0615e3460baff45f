"""A program gives what its functions give natively: the same bits backward, and every engine's gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import Problem, hypergradient, problem_of, reversible, sgd, unrolled
from core.engines import checkpointed, forward_mode, hybrid
from core.engines.inner import accumulators, learned_entries
from core.engines.training import train
from core.errors import InvalidProblem
from core.programs import running
from core.reversal.schedule import normalize, prepare
from tests.programs import recurrent
from tests.programs.recurrent import STEPS, flat

KEY = jax.random.key(3)


def both(case, program, *, key=KEY, engine=None):
    """The hypergradient natively and of the program."""
    run = {"optimizer": sgd(), "num_steps": STEPS, "key": key, "engine": engine or reversible()}
    native = hypergradient(case.native, case.hyper, **run)
    return native, hypergradient(problem_of(program, case.data), flat(case.hyper), **run)


def assert_same_bits(native, found):
    assert np.asarray(found.value).tobytes() == np.asarray(native.value).tobytes()
    gradient = flat(native.gradient)
    assert set(found.gradient) == set(gradient)
    different = {
        name: float(jnp.max(jnp.abs(found.gradient[name] - leaf)))
        for name, leaf in gradient.items()
        if np.asarray(found.gradient[name]).tobytes() != np.asarray(leaf).tobytes()
    }
    assert not different
    for one, other in zip(jax.tree.leaves(found.params), jax.tree.leaves(native.params), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_the_hypergradient_is_the_native_one_bit_for_bit_and_certified(case, exported):
    native, found = both(case, exported)
    assert found.certificate.exact
    assert found.certificate.mode == native.certificate.mode
    assert found.certificate.stored_bits_per_param_step == native.certificate.stored_bits_per_param_step
    assert_same_bits(native, found)
    assert all(float(jnp.max(jnp.abs(leaf))) > 0 for leaf in found.gradient.values())  # all is learned


@pytest.mark.slow
def test_so_it_is_in_float64(case64, exported64):
    assert_same_bits(*both(case64, exported64))


@pytest.mark.slow
def test_so_it_is_where_every_step_draws_random_numbers():
    case = recurrent.case(dropout=True)
    assert_same_bits(*both(case, case.export()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [unrolled(), pytest.param(checkpointed(), marks=pytest.mark.slow)],
    ids=["unrolled", "checkpointed"],
)
def test_engines_in_floats_agree_with_native_ones(case64, exported64, engine):
    native, found = both(case64, exported64, engine=engine)
    for name, leaf in flat(native.gradient).items():
        np.testing.assert_allclose(found.gradient[name], leaf, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.slow
def test_reversal_in_stretches_gives_native_bits(case, exported):
    assert_same_bits(*both(case, exported, engine=hybrid(checkpoints=3)))


@pytest.mark.slow
def test_several_seeds_one_after_another_give_native_bits(case, exported):
    native, found = both(case, exported, key=jax.random.split(KEY, 3))
    assert_same_bits(native, found)


@pytest.mark.slow
def test_several_seeds_side_by_side_agree(case, exported):
    native, found = both(case, exported, key=jax.random.split(KEY, 3), engine=reversible(side_by_side=3))
    assert found.certificate.exact
    for name, leaf in flat(native.gradient).items():
        np.testing.assert_allclose(found.gradient[name], leaf, rtol=1e-4, atol=1e-7, err_msg=name)


def test_training_alone_gives_native_bits(case, exported):
    run = {"optimizer": sgd(), "num_steps": STEPS, "key": KEY}
    native = train(case.native, case.hyper, **run)
    found = train(problem_of(exported, case.data), flat(case.hyper), **run)
    assert all(np.array_equal(found[name], leaf) for name, leaf in native.items())


def test_groups_keep_their_names_and_order(case, exported):
    params = problem_of(exported, case.data).init(flat(case.hyper), KEY)
    native = case.native.init(case.hyper, KEY)
    assert list(params) == [
        ".".join(str(k.key) for k in path) for path, _ in jax.tree_util.tree_leaves_with_path(native)
    ]


def names_summed(problem, hyper):
    params = problem.init(hyper, KEY)
    names = [".".join(str(key.key) for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(hyper)]
    return {names[index] for index in accumulators(problem, params, hyper, KEY)}


def test_only_the_leaves_that_the_inner_loss_reads_are_summed(case, exported):
    wanted = {"log_l2.hidden", "log_l2.inputs", "log_l2.output"}
    assert names_summed(case.native, case.hyper) == wanted
    assert names_summed(problem_of(exported, case.data), flat(case.hyper)) == wanted


def learned_of(problem, hyper):
    params = problem.init(hyper, KEY)
    schedule = prepare(normalize(problem.schedule(hyper), sgd(), params, STEPS), sgd(), STEPS)
    return set(learned_entries(problem, hyper, sgd(), STEPS, schedule, params).rows)


def test_schedule_entries_that_read_nothing_stay_independent(case):
    def schedule(hyper):
        return {"step_size": jnp.exp(hyper["log_step_size"]), "momentum": 0.9}

    program = case.export(schedule=schedule)
    assert learned_of(problem_of(program, case.data), flat(case.hyper)) == {"step_size"}


@pytest.mark.slow
def test_hyperparameters_that_are_fixed_are_neither_differentiated_nor_summed(case, exported):
    hyper = flat(case.hyper)
    whole = both(case, exported)[1]
    fixed = {name: hyper.pop(name) for name in list(hyper) if name not in ("momentum", "log_l2.hidden")}
    problem = problem_of(exported, case.data, fixed)
    assert learned_of(problem, hyper) == {"momentum"}
    assert names_summed(problem, hyper) == {"log_l2.hidden"}
    found = hypergradient(problem, hyper, optimizer=sgd(), num_steps=STEPS, key=KEY)
    assert set(found.gradient) == {"momentum", "log_l2.hidden"}
    for name, leaf in found.gradient.items():
        np.testing.assert_allclose(leaf, whole.gradient[name], rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_an_inner_loss_that_reads_no_hyperparameters(case):
    def inner_loss(data, params, hyper, step, key):
        return recurrent.loss(params, data["train"]["inputs"], data["train"]["labels"])

    changed = case._replace(functions=case.functions | {"inner_loss": inner_loss})
    program = changed.export()
    assert_same_bits(*both(changed, program))
    native, found = both(changed, program, engine=unrolled())
    np.testing.assert_allclose(found.gradient["momentum"], native.gradient["momentum"], rtol=1e-4)
    both(changed, program, key=jax.random.split(KEY, 2), engine=reversible(side_by_side=2))


@pytest.mark.slow
def test_per_weight_schedules_and_parameters_in_lists(case):
    def init(hyper, key):
        return [hyper["start"].astype(jnp.float32), jnp.zeros(2)]

    def inner_loss(params, hyper, step, key):
        return jnp.sum(jnp.square(params[0] - 1)) + jnp.sum(jnp.cos(params[1]))

    def outer_loss(params, hyper, key):
        return jnp.sum(params[0]) + jnp.sum(params[1])

    def schedule(hyper):
        return {"step_size": [jnp.exp(hyper["log_step"]), 0.1], "momentum": 0.5}

    hyper = {"start": jnp.zeros(3), "log_step": jnp.full(3, -2.0)}
    small = recurrent.Case({"init": init, "schedule": schedule}, hyper, {})
    program = small.export(inner_loss=inner_loss, outer_loss=outer_loss, data=None, metrics=None)
    run = {"optimizer": sgd(), "num_steps": STEPS, "key": KEY}
    native = hypergradient(Problem(init, inner_loss, outer_loss, schedule), hyper, **run)
    assert_same_bits(native, hypergradient(problem_of(program), hyper, **run))


@pytest.mark.slow
def test_one_array_of_hyperparameters_and_one_of_parameters():
    functions = {
        "init": lambda hyper, key: hyper[:2].astype(jnp.float32),
        "schedule": lambda hyper: {"step_size": 0.1, "momentum": 0.5},
    }
    small = recurrent.Case(functions, jnp.ones(3), {})
    program = small.export(
        inner_loss=lambda params, hyper, step, key: jnp.sum(jnp.square(params - hyper[2].astype(jnp.float32))),
        outer_loss=lambda params, hyper, key: jnp.sum(params),
        data=None,
        metrics=None,
    )
    loaded = running.load(program)
    assert [leaf.name for leaf in loaded.manifest.params] == ["params"]
    assert [leaf.name for leaf in loaded.manifest.hyper] == ["hyper"]
    found = hypergradient(problem_of(loaded), {"hyper": jnp.ones(3)}, optimizer=sgd(), num_steps=STEPS, key=KEY)
    assert found.certificate.exact


@pytest.mark.slow
def test_an_engine_that_goes_forward_is_refused_by_name(case, exported):
    with pytest.raises(InvalidProblem, match="choose an engine that goes backward"):
        both(case, exported, engine=forward_mode())


def test_hyperparameters_of_another_shape_are_refused_by_name(case, exported):
    problem = problem_of(exported, case.data)
    hyper = flat(case.hyper)
    run = {"optimizer": sgd(), "num_steps": STEPS, "key": KEY}
    with pytest.raises(InvalidProblem, match=r"hyper\['output_start'\] has shape \(2,\)"):
        hypergradient(problem, hyper | {"output_start": jnp.ones(2)}, **run)
    del hyper["momentum"]
    with pytest.raises(InvalidProblem, match=r"hyper\['momentum'\] is missing"):
        hypergradient(problem, hyper, **run)


def test_data_of_another_shape_are_refused_by_name(exported):
    with pytest.raises(InvalidProblem, match=r"data\['train'\]\['inputs'\] is missing"):
        problem_of(exported)


def test_the_same_bytes_are_the_same_program(exported):
    assert running.load(exported) is running.load(bytes(exported))
