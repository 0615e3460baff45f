import jax
import numpy as np
import pytest

from core import hypergradient, sgd, unrolled
from core.errors import FixedPointOverflow
from core.learning import Learner
from core.spec import JobSpec


def small(**changes):
    """A quick job on digits: logistic regression unless told otherwise."""
    document = {
        "problem": {
            "kind": "classifier",
            "dataset": {"name": "digits", "split": {"train": 300, "valid": 100, "test": 100}},
            "model": {"kind": "logistic_regression"},
            "outer_loss": "valid",
        },
        "training": {"num_steps": 20, "batch_size": 100},
        "hyperparameters": {"step_size": {"learn": True, "per": ["step", "group"], "initial": 0.3}},
        "meta": {"num_iterations": 4, "evaluation_seeds": 2},
    }
    for path, value in changes.items():
        *parents, name = path.split("__")
        place = document
        for parent in parents:
            place = place[parent]
        place[name] = value
    return JobSpec.model_validate(document)


ALL_KINDS = {
    "step_size": {"learn": True, "per": ["step", "group"], "initial": 0.3},
    "momentum": {"learn": True, "per": ["group"], "initial": 0.5},
    "init_scale": {"learn": True, "per": ["group"], "initial": 0.1},
    "l2": {"learn": True, "per": ["weight"], "initial": 0.001},
}


@pytest.mark.parametrize(
    "hyperparameters",
    [
        pytest.param(
            {
                "step_size": {"learn": True, "per": [], "initial": 0.3},
                "l2": {"learn": True, "per": [], "initial": 0.01},
            },
            id="one each",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"step_size": {"learn": True, "per": ["step"], "initial": 0.3, "transform": "identity"}},
            id="per step",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"momentum": {"learn": True, "per": ["step"], "initial": 0.5}, "l2": {"initial": 0.01}},
            id="momentum per step",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"l2": {"learn": True, "per": ["group"], "initial": 0.01}, "momentum": {"initial": 0.0}},
            id="no momentum",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"init_scale": {"learn": True, "per": [], "initial": 0.1}}, id="one scale", marks=pytest.mark.slow
        ),
        pytest.param(ALL_KINDS, id="every kind"),
    ],
)
@pytest.mark.parametrize(
    "model",
    [
        pytest.param({"kind": "logistic_regression"}, id="lr", marks=pytest.mark.slow),
        pytest.param({"kind": "mlp", "hidden": [8]}, id="mlp"),
    ],
)
def test_every_granularity_matches_unrolled_autodiff_in_float64(hyperparameters, model):
    spec = small(hyperparameters=hyperparameters, training__dtype="float64", problem__model=model)
    learner = Learner.from_spec(spec)
    problem = learner.inner.draw(0).problem
    arguments = {"optimizer": sgd(), "num_steps": 20, "key": jax.random.key(0)}
    exact = hypergradient(problem, learner.initial(), **arguments)
    oracle = hypergradient(problem, learner.initial(), engine=unrolled(), **arguments)
    assert exact.certificate.exact
    for name, gradient in oracle.gradient.items():
        assert gradient.shape == learner.layouts[name].shape
        error = np.linalg.norm(exact.gradient[name] - gradient) / np.linalg.norm(gradient)
        assert error <= 1e-8, name


def test_learning_lowers_the_outer_loss_on_the_evaluation_seeds():
    learner = Learner.from_spec(small(meta__num_iterations=15, meta__step_size=0.1))
    before = learner.evaluate(learner.initial()).losses
    records = list(learner.run())
    after = learner.evaluate(records[-1].checkpoint.values).losses
    assert after.outer < 0.8 * before.outer
    assert before.outer == before.valid
    assert all(one.certificate["exact"] for one in records)
    assert [one.iteration for one in records] == list(range(15))


def test_the_spec_decides_every_bit():
    def learned():
        return list(Learner.from_spec(small()).run())[-1].checkpoint.values["step_size"]

    np.testing.assert_array_equal(learned(), learned())


@pytest.mark.parametrize("at", [1, 3])
def test_resuming_from_a_checkpoint_gives_the_same_bits(at):
    whole = list(Learner.from_spec(small()).run())
    resumed = list(Learner.from_spec(small()).run(whole[at - 1].checkpoint))
    assert [one.iteration for one in resumed] == list(range(at, 4))
    for name, values in whole[-1].checkpoint.values.items():
        np.testing.assert_array_equal(resumed[-1].checkpoint.values[name], values)
    assert resumed[-1].losses == whole[-1].losses
    assert resumed[-1].checkpoint.best_iteration == whole[-1].checkpoint.best_iteration


def test_fresh_seeds_differ_and_a_fixed_one_repeats():
    still = {"meta__optimizer": "sgd", "meta__step_size": 1e-30, "meta__num_iterations": 3}
    fresh = [one.losses.outer for one in Learner.from_spec(small(**still)).run()]
    fixed = [one.losses.outer for one in Learner.from_spec(small(**still, training__seed=3)).run()]
    assert len(set(fresh)) == 3
    assert len(set(fixed)) == 1


def test_several_seeds_are_averaged():
    records = list(Learner.from_spec(small(meta__seeds_per_iteration=3, meta__num_iterations=1)).run())
    assert records[0].certificate["exact"]
    assert records[0].losses.outer == pytest.approx(records[0].losses.valid, rel=1e-5)


def test_divergence_names_the_spec_s_group():
    learner = Learner.from_spec(small(hyperparameters__step_size__initial=1e12))
    with pytest.raises(FixedPointOverflow) as caught:
        list(learner.run())
    assert caught.value.group in {group.name for group in learner.groups}


def test_interrupt_is_asked_often():
    asked = []
    list(Learner.from_spec(small(), interrupt=lambda: asked.append(1)).run())
    assert len(asked) >= 8  # at least once each way in each of four meta-iterations


def test_the_unrolled_engine_says_that_it_proves_nothing():
    (record,) = Learner.from_spec(small(engine="unrolled", meta__num_iterations=1)).run()
    assert record.certificate["exact"] is False


def test_provenance_tells_what_the_result_depends_on():
    provenance = Learner.from_spec(small()).provenance()
    assert provenance["spec_sha256"] == small().sha256()
    assert len(provenance["dataset_sha256"]) == 64
    assert {"jax", "jaxlib", "python", "numpy", "optax"} <= set(provenance["versions"])


def test_a_training_with_checkpoints_goes_on_within_a_meta_iteration(tmp_path):
    class Died(Exception):
        pass

    def dying():
        if any(tmp_path.rglob("back *.npz")):  # on the way back, with a stretch undone
            raise Died

    spec = small(training__checkpoints=3, meta__num_iterations=2)
    whole = list(Learner.from_spec(spec).run())
    assert {record.certificate["engine"] for record in whole} == {"hybrid"}
    with pytest.raises(Died):
        next(Learner.from_spec(spec, interrupt=dying, keep_in=tmp_path).run())
    calls = []
    again = list(Learner.from_spec(spec, interrupt=lambda: calls.append(1), keep_in=tmp_path).run())
    assert list(tmp_path.iterdir()) == []
    for one, other in zip(again, whole, strict=True):
        assert one.certificate == other.certificate
        for name, values in one.checkpoint.values.items():
            np.testing.assert_array_equal(values, other.checkpoint.values[name])
    calls_again = len(calls)
    calls.clear()
    list(Learner.from_spec(spec, interrupt=lambda: calls.append(1)).run())
    assert calls_again < len(calls)
