"""Every kind of problem and hyperparameter: its hypergradient beside float64 autodiff, and what it means."""

import math
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from core import alphabets, hypergradient, unrolled
from core.config import get_settings
from core.errors import InvalidDataset, InvalidSpec
from core.hyperparameters import layouts_of
from core.learning import Learner
from core.problems.augmentation import augment
from core.shapes import groups_for
from core.spec import Alphabets, JobSpec

SGD = {"step_size": {"initial": 0.3}, "momentum": {"initial": 0.5}}
LEARNED_INPUTS = {"inputs": {"learn": True, "noise": 0.3}}


@pytest.fixture
def omniglot(tmp_path, monkeypatch):
    """Two alphabets of three and two characters, each drawing a grey of its own, in Omniglot's form."""
    (tmp_path / "omniglot").mkdir()
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "omniglot" / "images.zip", "w") as archive:
        for alphabet, count in (("Aleph", 3), ("Beth", 2)):
            for character in range(count):
                for drawer in range(20):
                    with archive.open(f"images/{alphabet}/character{character:02}/{drawer:02}.png", "w") as file:
                        Image.fromarray(rng.integers(0, 256, (105, 105), np.uint8)).save(file, "PNG")
    monkeypatch.setenv("RETROGRAD_DATA", str(tmp_path))
    get_settings.cache_clear()
    yield tmp_path
    get_settings.cache_clear()


def classifier(hyperparameters, **problem):
    return {
        "problem": {
            "kind": "classifier",
            "dataset": {"name": "digits", "split": {"train": 60, "valid": 50, "test": 50}},
            "model": {"kind": "logistic_regression"},
            **problem,
        },
        "training": {"num_steps": 8, "batch_size": 20, "dtype": "float64"},
        "hyperparameters": SGD | hyperparameters,
        "meta": {"num_iterations": 2, "evaluation_seeds": 2},
    }


def multitask(hyperparameters, **problem):
    return {
        "problem": {
            "kind": "multitask",
            "dataset": {"name": "omniglot", "alphabets": ["Aleph", "Beth"]},
            "model": {"kind": "mlp", "hidden": [6]},
            **problem,
        },
        "training": {"num_steps": 6, "dtype": "float64"},
        "hyperparameters": SGD | {"l2": {"initial": 0.01}} | hyperparameters,
        "meta": {"num_iterations": 2, "evaluation_seeds": 2},
    }


def toy():
    schedule = {"learn": True, "per": ["step"]}
    return {
        "problem": {"kind": "toy"},
        "training": {"num_steps": 20, "seed": 0, "dtype": "float64"},
        "hyperparameters": {
            "step_size": schedule | {"initial": math.exp(-4.5)},
            "momentum": schedule | {"initial": 0.99},
        },
        "meta": {
            "optimizer": "sgd",
            "step_size": 0.01,
            "momentum": 0.9,
            "num_iterations": 3,
            "evaluation_seeds": 1,
        },
        "diagnostics": {"every": 1, "path": True},
    }


KINDS = {
    "inputs": classifier(LEARNED_INPUTS, synthetic_examples=20),
    "labels": classifier({"labels": {"learn": True}}),
    "labels of made-up examples": classifier(LEARNED_INPUTS | {"labels": {"learn": True}}, synthetic_examples=20),
    "example weights": classifier({"example_weights": {"learn": True}}),
    "augmentation": classifier({"augmentation": {"learn": True}}),
    "initial weights": classifier({"initial_weights": {"learn": True}}),
    "penalty per unit": classifier(
        {"l2": {"learn": True, "per": ["unit"], "initial": 0.01}}, model={"kind": "mlp", "hidden": [7, 5]}
    ),
    "outer penalty": classifier({"l2": {"learn": True, "per": ["weight"], "initial": 0.3, "outer_penalty": 0.5}}),
    "task mixing": multitask({"task_mixing": {"learn": True, "sharing": [0.5]}}),
    "shared initial weights": multitask({"initial_weights": {"learn": True}}),
    "toy": toy(),
}


SLOW = {
    "inputs",
    "labels",
    "task mixing",
    "labels of made-up examples",
    "augmentation",
    "penalty per unit",
    "outer penalty",
    "shared initial weights",
}


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(document, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name, document in KINDS.items()
    ],
)
def test_hypergradients_are_those_of_float64_autodiff(document, omniglot):
    learner = Learner.from_spec(JobSpec.model_validate(document))
    problem, run = learner.inner.draw(0).problem, {"num_steps": learner.spec.training.num_steps}
    run |= {"optimizer": learner._optimizer, "key": jax.random.key(0)}
    values = learner.initial()
    exact, oracle = (
        hypergradient(problem, values, **run),
        hypergradient(problem, values, engine=unrolled(), **run),
    )
    assert exact.certificate.exact
    for name, expected in oracle.gradient.items():
        assert expected.shape == values[name].shape == learner.layouts[name].shape
        assert np.linalg.norm(expected) > 0
        assert np.linalg.norm(exact.gradient[name] - expected) <= 1e-8 * np.linalg.norm(expected)


@pytest.mark.parametrize("document", KINDS.values(), ids=KINDS)
def test_the_shapes_of_parameters_are_those_of_the_groups(document, omniglot):
    learner = Learner.from_spec(JobSpec.model_validate(document))
    params = learner.inner.draw(0).problem.init(learner.initial(), jax.random.key(0))
    assert [leaf.shape for leaf in jax.tree.leaves(params)] == [group.shape for group in learner.groups]


def test_an_example_of_weight_one_counts_as_without_weights():
    without = Learner.from_spec(JobSpec.model_validate(classifier({"l2": {"learn": True, "initial": 0.01}})))
    weighted = classifier({"l2": {"learn": True, "initial": 0.01}, "example_weights": {"learn": True}})
    weighted = Learner.from_spec(JobSpec.model_validate(weighted))
    losses = [
        learner.inner.draw(0).problem.inner_loss(
            learner.inner.draw(0).problem.init(values, jax.random.key(1)), values, 0, jax.random.key(2)
        )
        for learner, values in (
            (without, without.initial()),
            (weighted, weighted.initial() | {"example_weights": np.full(60, 40.0)}),
        )
    ]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-12)


def test_a_start_that_is_left_out_is_the_optimizers():
    document = classifier({"b2": {"learn": True}})
    del document["hyperparameters"]["momentum"]
    document["training"]["optimizer"] = "adamw"
    used = JobSpec.model_validate(document).used
    assert (used["b1"].initial, used["b2"].initial, used["weight_decay"].initial) == (0.9, 0.999, 0.01)
    assert used["b2"].learn


def test_what_is_fixed_is_as_in_the_optimizers():
    from core import engines
    from core.spec import OPTIMIZERS

    for name, hyperparameters in OPTIMIZERS.items():
        ranges = getattr(engines, name)().hyperparameters
        assert set(ranges) == set(hyperparameters)
        for each, found in hyperparameters.items():
            assert ranges[each].default in (None, found.initial)


def test_the_valley_is_that_of_the_paper():
    from core.problems.toy import valley

    r = 100 * (3.9 - 1.4**2) ** 2 + (1 - 1.4) ** 2 + 200 * 1.4
    assert float(valley(jnp.array([1.4, 3.9]))) == pytest.approx(800 / (1 + math.exp(-r / 500)), rel=1e-6)


def test_the_toy_counts_its_outer_penalty():
    document = toy()
    document["hyperparameters"]["step_size"]["outer_penalty"] = 2.0
    learner = Learner.from_spec(JobSpec.model_validate(document))
    losses = learner.evaluate(learner.initial()).losses
    assert losses.outer - losses.valid == pytest.approx(2.0 * 20 * math.exp(-9.0))


def test_augmentation_asks_for_square_images(tmp_path, monkeypatch):
    from tests.core.test_datasets import write_idx

    write_idx(tmp_path / "oblong" / "x-images-idx3-ubyte", np.zeros((200, 4, 9)))
    write_idx(tmp_path / "oblong" / "x-labels-idx1-ubyte", np.zeros(200))
    monkeypatch.setenv("RETROGRAD_DATA", str(tmp_path))
    get_settings.cache_clear()
    document = classifier({"augmentation": {"learn": True}})
    document["problem"]["dataset"]["name"] = "oblong"
    try:
        with pytest.raises(
            InvalidSpec, match=r"hyperparameters.augmentation: the images of oblong are not square"
        ):
            groups_for(JobSpec.model_validate(document))
    finally:
        get_settings.cache_clear()


def test_images_that_are_not_moved_stay_as_they_are():
    images = jax.random.uniform(jax.random.key(0), (5, 64))
    np.testing.assert_allclose(augment(images, jnp.zeros(3), jax.random.key(1)), images, atol=1e-6)


@pytest.mark.parametrize(("far", "moves"), [((1.0, 0, 0), True), ((0, 20.0, 0), True), ((0, 0, 0.5), False)])
def test_moving_keeps_what_is_inside_and_noise_stays_in_its_place(far, moves):
    image = jnp.zeros((16, 16)).at[6:10, 6:10].set(1).at[7, 8].set(0.5).ravel()
    moved = augment(jnp.tile(image, (200, 1)), jnp.array(far), jax.random.key(1))
    assert jnp.std(moved, axis=0).max() > 0.1
    np.testing.assert_allclose(moved.mean(axis=0).sum(), image.sum(), rtol=0.1)
    assert (jnp.std(moved, axis=0)[0] > 0.1) == (not moves)  # a corner far from the drawing


def test_corrupted_labels_are_of_another_class_and_their_share_is_right():
    clean = Learner.from_spec(JobSpec.model_validate(classifier({"example_weights": {"learn": True}}))).inner._data
    document = classifier({"example_weights": {"learn": True}})
    document["problem"]["dataset"]["corrupted"] = 0.3
    noisy = Learner.from_spec(JobSpec.model_validate(document)).inner._data
    assert noisy.corrupted.sum() == 18
    np.testing.assert_array_equal(noisy.train.labels != clean.train.labels, noisy.corrupted)
    np.testing.assert_array_equal(noisy.valid.labels, clean.valid.labels)


@pytest.mark.slow
def test_learned_example_weights_find_corrupted_labels():
    document = classifier({"example_weights": {"learn": True}})
    document["problem"]["dataset"] = {
        "name": "digits",
        "split": {"train": 300, "valid": 300, "test": 300},
        "corrupted": 0.3,
    }
    document["training"] = {"num_steps": 30, "batch_size": 300}
    document["meta"] = {"num_iterations": 15, "step_size": 0.3, "evaluation_seeds": 2}
    learner = Learner.from_spec(JobSpec.model_validate(document))
    before, *_, last = [learner.evaluate(learner.initial()), *learner.run()]
    after = learner.evaluate(last.checkpoint.values)
    assert before.measures["corrupted_labels_auc"] == 0.5
    assert after.measures["corrupted_labels_auc"] > 0.9
    assert after.measures["test_accuracy"] > before.measures["test_accuracy"]


@pytest.mark.slow
def test_learned_labels_correct_corrupted_ones():
    document = classifier({"labels": {"learn": True}})
    document["problem"]["dataset"] = {
        "name": "digits",
        "split": {"train": 300, "valid": 300, "test": 300},
        "corrupted": 0.3,
    }
    document["training"] = {"num_steps": 30, "batch_size": 300}
    document["meta"] = {"num_iterations": 15, "step_size": 0.5, "evaluation_seeds": 2}
    learner = Learner.from_spec(JobSpec.model_validate(document))
    before, *_, last = [learner.evaluate(learner.initial()), *learner.run()]
    after = learner.evaluate(last.checkpoint.values)
    assert before.measures["corrupted_labels_corrected"] == 0
    assert after.measures["corrupted_labels_corrected"] > 0.5
    facts = learner.inner.facts
    np.testing.assert_array_equal(facts["given_labels"] != facts["true_labels"], facts["corrupted_labels"] == 1)


def test_drawings_are_read_with_ink_one(omniglot):
    drawings = alphabets.load(Alphabets(alphabets=("Aleph", "Beth")))
    assert [images.shape for images in drawings.images] == [(3, 20, 28, 28), (2, 20, 28, 28)]
    assert all(images.min() >= 0 and images.max() <= 1 for images in drawings.images)


def test_what_is_held_out_is_drawn_anew_and_never_tested_on(omniglot):
    learner = Learner.from_spec(JobSpec.model_validate(multitask({"task_mixing": {"learn": True}})))
    inner = learner.inner

    def drawings(tasks):
        return {tuple(one) for task in tasks for one in np.asarray(task.inputs)}

    parts = [inner.draw(number).losses.args for number in (0, 0, 1)]
    (train, valid), again, (_, other) = parts
    seen = [drawings(one) for one in (train, valid, inner._test)]
    assert [len(one) for one in seen] == [10 * 10, 10 * 2, 10 * 3]  # (3 + 2) characters, twice
    assert not seen[0] & seen[1]
    assert not (seen[0] | seen[1]) & seen[2]
    jax.tree.map(np.testing.assert_array_equal, valid, again[1])
    assert drawings(other) != seen[1]
    assert drawings(inner._whole) == seen[0] | seen[1]


@pytest.mark.slow
def test_tasks_that_share_nothing_are_trained_as_if_alone(omniglot):
    together = Learner.from_spec(
        JobSpec.model_validate(multitask({"task_mixing": {"learn": True, "sharing": [0.0]}}))
    )
    draw = together.inner.draw(0)
    hyper = together.initial()
    params = draw.problem.init(hyper, jax.random.key(0))
    gradient = jax.grad(draw.problem.inner_loss)(params, hyper, 0, jax.random.key(0))
    elsewhere = jax.tree.map(lambda leaf: leaf.at[1:].set(0.0), params)
    other = jax.grad(draw.problem.inner_loss)(elsewhere, hyper, 0, jax.random.key(0))
    for one, two in zip(jax.tree.leaves(gradient), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(one[0], two[0], rtol=1e-12)


def test_tasks_that_share_all_are_one_network(omniglot):
    spec = JobSpec.model_validate(multitask({"task_mixing": {"learn": True, "sharing": [1.0]}}))
    learner = Learner.from_spec(spec)
    mixed = learner.inner._program._mixed(
        learner.inner.draw(0).problem.init(learner.initial(), jax.random.key(0)), learner.initial()
    )
    for leaf in jax.tree.leaves(mixed):
        np.testing.assert_allclose(leaf, np.broadcast_to(leaf[:1], leaf.shape), rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alphabets": ["Gimel"]}, "no alphabet 'Gimel'; there are Aleph, Beth in images.zip"),
        ({"name": "elsewhere"}, "no folder 'elsewhere'"),
    ],
)
def test_alphabets_that_are_not_here_are_named(omniglot, change, message):
    document = multitask({"task_mixing": {"learn": True}})
    document["problem"]["dataset"] |= change
    with pytest.raises(InvalidSpec, match=message):
        groups_for(JobSpec.model_validate(document))


def test_a_damaged_drawing_is_named(omniglot):
    with zipfile.ZipFile(omniglot / "omniglot" / "broken.zip", "w") as archive:
        for drawer in range(20):
            archive.writestr(f"images/Daleth/character01/{drawer:02}.png", b"no picture")
    with pytest.raises(InvalidDataset, match=r"Daleth/character01/00.png"):
        alphabets.load(Alphabets(alphabets=("Daleth",)))


def test_a_missing_drawing_is_named(omniglot):
    with zipfile.ZipFile(omniglot / "omniglot" / "few.zip", "w") as archive:
        archive.writestr("images/Heh/character01/01.png", b"")
    with pytest.raises(InvalidSpec, match=r"Heh/character01 has 1 drawings, not 20"):
        alphabets.check(Alphabets(alphabets=("Heh",)))


def test_the_papers_numbers_of_hyperparameters(monkeypatch):
    from core import presets
    from core.hyperparameters import count_learned, groups_of

    expected = {
        "toy-two-weights": 100,
        "learning-rate-schedules": 1608,
        "initial-hypergradient": 1608,
        "per-weight-l2": 7850,
        "learned-training-data": 7841,
        "multitask-weight-tying": 300,
    }
    for name, count in expected.items():
        spec = presets.get(name)
        groups = groups_of(spec.problem, 784, 55 if spec.problem.kind == "multitask" else 10)
        assert count_learned(layouts_of(spec, groups)) == count, name
