import json

import pytest
from pydantic import ValidationError

from core import presets
from core.spec import OPTIMIZERS, JobSpec


def document(**changes):
    """The digits preset with fields replaced, by dotted path."""
    spec = json.loads(presets.get("digits-schedules").model_dump_json())
    for path, value in changes.items():
        *parents, name = path.split("__")
        place = spec
        for parent in parents:
            place = place[parent]
        place[name] = value
    return spec


@pytest.mark.parametrize("name", presets.names())
def test_presets_are_complete_and_survive_a_round_trip(name):
    spec = presets.get(name)
    assert spec.name == name
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_a_stored_specification_starts_where_the_given_one_does(optimizer):
    learned = {name: {"learn": one.initial > 0} for name, one in OPTIMIZERS[optimizer].items()}
    spec = JobSpec.model_validate(document(training__optimizer=optimizer, hyperparameters=learned))
    stored = JobSpec.model_validate(spec.model_dump(mode="json"))
    assert stored.used == spec.used
    for name, one in OPTIMIZERS[optimizer].items():
        assert stored.used[name].initial == one.initial, name


def test_unknown_presets_are_named_with_the_known_ones():
    with pytest.raises(presets.UnknownPreset, match=r"'nope'; known: .*digits-schedules"):
        presets.get("nope")


@pytest.mark.parametrize(
    ("path", "value", "loc", "message"),
    [
        ("colour", "red", ("colour",), "Extra inputs"),
        ("training__colour", "red", ("training", "colour"), "Extra inputs"),
        ("training__num_steps", 0, ("training", "num_steps"), "greater than 0"),
        ("training__num_steps", 10**9, ("training", "num_steps"), "less than or equal to 1000000"),
        ("training__num_steps", "many", ("training", "num_steps"), "valid integer"),
        ("training__num_steps", "100", ("training", "num_steps"), "valid integer"),
        ("training__num_steps", True, ("training", "num_steps"), "valid integer"),
        ("training__num_steps", 100.0, ("training", "num_steps"), "valid integer"),
        (
            "hyperparameters__step_size__initial",
            "0.1",
            ("hyperparameters", "step_size", "initial"),
            "valid number",
        ),
        ("hyperparameters__step_size__learn", "yes", ("hyperparameters", "step_size", "learn"), "valid boolean"),
        ("problem__model__hidden", [50, "50"], ("problem", "model", "hidden", 1), "valid integer"),
        ("training__batch_size", 5000, (), "exceeds problem.dataset.split.train 1000"),
        ("training__seed", "stale", ("training", "seed", "literal['fresh']"), "fresh"),
        ("hyperparameters__momentum__initial", 1.0, ("hyperparameters", "momentum", "initial"), "less than 1"),
        ("hyperparameters__momentum__initial", -0.1, ("hyperparameters", "momentum", "initial"), "greater than"),
        ("hyperparameters__momentum__initial", 0.0, ("hyperparameters", "momentum"), "no logit"),
        ("hyperparameters__step_size__initial", 0.0, ("hyperparameters", "step_size"), "above 0"),
        (
            "hyperparameters__step_size__initial",
            float("nan"),
            ("hyperparameters", "step_size", "initial"),
            "finite",
        ),
        ("hyperparameters__step_size__per", ["step", "step"], ("hyperparameters", "step_size", "per"), "twice"),
        ("hyperparameters__init_scale__per", ["step"], ("hyperparameters", "init_scale", "per", 0), "group"),
        ("hyperparameters__l2", {"per": ["group", "weight"]}, ("hyperparameters", "l2", "per"), "give it alone"),
        ("hyperparameters", {}, ("hyperparameters",), "nothing to learn"),
        ("problem__dataset__name", "../etc", ("problem", "classifier", "dataset", "by_name", "name"), "pattern"),
        (
            "problem__dataset__split__train",
            -1,
            ("problem", "classifier", "dataset", "by_name", "split", "train"),
            "greater",
        ),
        ("problem__model__hidden", [50] * 9, ("problem", "classifier", "model", "mlp", "hidden"), "at most 8"),
        ("problem__model__kind", "rnn", ("problem", "classifier", "model"), "mlp"),
        ("meta__num_iterations", 0, ("meta", "num_iterations"), "greater than 0"),
        (
            "meta__stop_when",
            {"hypergradient_norm_grows": 0.5},
            ("meta", "stop_when", "hypergradient_norm_grows"),
            "1",
        ),
        ("engine", "magic", ("engine",), "reversible"),
    ],
)
def test_mistakes_are_found_where_they_are(path, value, loc, message):
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(document(**{path: value}))
    errors = caught.value.errors()
    without_tags = tuple(part for part in loc if part not in {"classifier", "mlp"})
    found = [tuple(part for part in one["loc"] if part not in {"classifier", "mlp"}) for one in errors]
    assert without_tags in found
    assert any(message in one["msg"] for one in errors)


def test_digest_ignores_the_name_and_nothing_else():
    base = JobSpec.model_validate(document())
    assert base.sha256() == JobSpec.model_validate(document(name="other")).sha256()
    assert base.sha256() != JobSpec.model_validate(document(training__num_steps=99)).sha256()


def test_axes_are_put_in_one_order():
    spec = JobSpec.model_validate(document(hyperparameters__step_size__per=["group", "step"]))
    assert spec.hyperparameters.step_size.per == ("step", "group")


def test_the_digests_of_older_specifications_stay_true():
    """Of presets, as they were before there were losses, balanced batches and standardised data."""
    for name, digest in {
        "adam-schedules": "4551bc26ac540e8e599331e1c012d46094d4b4d66c7b489a37cd9f2ab30d2202",
        "digits-schedules": "ebe6ee9cb912dd097f217a0e1a77c106f573a46cad56c4285c4df3279e5f682b",
        "learned-training-data": "8845f0128185381ed281e2529cb96fc6698f1b386183647e89265bf99ea15c67",
        "multitask-weight-tying": "570d5e3608dd991c94283abe6216dcc351b578ec7bf6f86d01845b05f2cfedaa",
        "toy-two-weights": "2d6099772f579d1235599a31b321e616ac24cc9e73909f7fd9a7cd3bdad6e16a",
    }.items():
        assert presets.get(name).sha256() == digest


@pytest.mark.parametrize(
    "change",
    [
        {"problem__loss": {"kind": "hinge"}},
        {"problem__dataset__standardise": "features"},
        {"training__batches": "balanced"},
        {"training__checkpoints": 2},
    ],
)
def test_fields_that_came_later_count_where_they_say_something_else(change):
    assert JobSpec.model_validate(document(**change)).sha256() != JobSpec.model_validate(document()).sha256()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training__batches": "balanced", "training__batch_size": None}, "set training.batch_size to a multiple"),
        ({"problem__model": {"kind": "transformer", "width": 7}}, "heads 2 do not divide width 7"),
        ({"problem__model": {"kind": "transformer", "patch": 2}}, "give both or neither"),
        ({"problem__model": {"kind": "transformer", "tokens": "patches"}}, "give both or neither"),
        ({"problem__dataset__standardise": "all"}, "set it to 'features'"),
        ({"problem__loss": {"kind": "squared"}}, "cross_entropy"),
        ({"problem__kind": "regression", "problem__loss": {"kind": "hinge"}}, "squared"),
        ({"problem__kind": "regression", "problem__dataset__corrupted": 0.1}, "targets have none"),
        ({"problem__kind": "regression", "training__batches": "balanced"}, "has no classes to balance"),
        (
            {"problem__kind": "regression", "hyperparameters__labels": {"learn": True}},
            "hyperparameters.labels is read",
        ),
        ({"problem__loss": {"kind": "hinge"}, "hyperparameters__labels": {"learn": True}}, "use cross_entropy"),
        (
            {"problem__dataset__standardise": "features", "hyperparameters__augmentation": {"learn": True}},
            "leave problem.dataset.standardise out",
        ),
        (
            {"problem__model": {"kind": "cnn"}, "problem__synthetic_examples": 100},
            "use logistic_regression or mlp",
        ),
        ({"problem__synthetic_examples": 500, "training__batches": "balanced"}, "have the classes in turn"),
    ],
)
def test_models_losses_and_batches_that_do_not_fit_are_refused(change, message):
    changed = document(**change)
    if changed["problem"]["kind"] == "regression":
        for of_classifiers in {"synthetic_examples", "loss"} - {name.rpartition("__")[2] for name in change}:
            del changed["problem"][of_classifiers]
    with pytest.raises(ValueError, match=message):
        JobSpec.model_validate(changed)
