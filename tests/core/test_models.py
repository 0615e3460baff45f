"""Models beside affine layers, losses and balanced batches: hypergradients beside float64 autodiff, outputs beside a
second implementation, trained models beside scikit-learn's.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal, special
from sklearn import linear_model, metrics
from sklearn.datasets import load_diabetes

from core import datasets, hypergradient, unrolled
from core.architectures import groups_of_model
from core.datasets import DatasetInfo, GivenData
from core.errors import InvalidSpec
from core.hyperparameters import layers_of, layouts_of, units_of
from core.learning import Learner
from core.problems.balance import members_of
from core.problems.losses import losses_of, measures_of
from core.problems.models import network_of
from core.shapes import groups_for
from core.spec import (
    CNN,
    CrossEntropy,
    Hinge,
    Huber,
    JobSpec,
    Quantile,
    Squared,
    Transformer,
    UploadedDataset,
)

ID = "ds_" + "0" * 24
SGD = {"step_size": {"initial": 0.1}, "momentum": {"initial": 0.5}}
LEARNED = {
    "step_size": {"learn": True, "per": ["step", "group"], "initial": 0.1},
    "init_scale": {"learn": True, "per": ["group"], "initial": 0.3},
    "l2": {"learn": True, "per": ["unit"], "initial": 0.01},
}


def diabetes():
    """442 patients, ten features; a number each."""
    found = load_diabetes()
    return GivenData(found.data * 20, found.target / 50, "a" * 64)


def spec_of(problem=None, training=None, hyperparameters=None, **more):
    """A small job on digits; on uploaded data where its problem is a regression."""
    changed = problem or {}
    regression = changed.get("kind") == "regression"
    data = {"id": ID} if regression else {"name": "digits"}
    return JobSpec.model_validate(
        {
            "problem": {
                "kind": "classifier",
                "model": {"kind": "logistic_regression"},
                **changed,
                "dataset": data | {"split": {"train": 60, "valid": 50, "test": 50}} | changed.get("dataset", {}),
            },
            "training": {"num_steps": 6, "batch_size": 20, "dtype": "float64"} | (training or {}),
            "hyperparameters": (SGD if _has_momentum(training) else {}) | (hyperparameters or LEARNED),
            "meta": {"num_iterations": 2, "evaluation_seeds": 2},
            **more,
        }
    )


def _has_momentum(training):
    return (training or {}).get("optimizer", "sgd") == "sgd"


def learner_of(spec):
    return Learner.from_spec(spec, given=diabetes() if spec.uploaded is not None else None)


CONVOLUTIONS = {"kind": "cnn", "channels": [3, 4], "kernel": 3}
ROWS = {"kind": "transformer", "tokens": "rows", "width": 6, "heads": 2, "blocks": 1, "hidden": 8}
PATCHES = ROWS | {"tokens": "patches", "patch": 4, "blocks": 2}
FEATURES = ROWS | {"tokens": "features"}
REGRESSION = {"kind": "regression"}

KINDS = {
    "cnn": {"problem": {"model": CONVOLUTIONS}},
    "cnn of relu, without pooling": {"problem": {"model": CONVOLUTIONS | {"pool": 1, "activation": "relu"}}},
    "cnn by adam": {"problem": {"model": CONVOLUTIONS}, "training": {"optimizer": "adam"}},
    "transformer of rows": {"problem": {"model": ROWS}},
    # with its own ε of 1e-8 the roundings of the smallest gradients are told apart: 3e-6 was seen
    "transformer of patches by adamw": {
        "problem": {"model": PATCHES},
        "training": {"optimizer": "adamw"},
        "hyperparameters": LEARNED | {"epsilon": {"initial": 1e-3}},
    },
    "transformer of features": {"problem": REGRESSION | {"model": FEATURES}},
    "hinge": {"problem": {"loss": {"kind": "hinge", "smoothing": 0.5}}},
    "squared": {"problem": REGRESSION},
    "huber": {"problem": REGRESSION | {"loss": {"kind": "huber", "delta": 0.7}, "model": {"kind": "mlp", "hidden": [5]}}},
    "quantile": {"problem": REGRESSION | {"loss": {"kind": "quantile", "q": 0.8}, "model": {"kind": "mlp", "hidden": [5]}}},
    "standardised": {"problem": REGRESSION | {"dataset": {"standardise": "all"}}},
    "balanced": {"training": {"batches": "balanced"}},
    "balanced, weights of examples": {
        "training": {"batches": "balanced"},
        "hyperparameters": {"example_weights": {"learn": True}, "labels": {"learn": True}},
    },
    "initial weights of a cnn": {"problem": {"model": CONVOLUTIONS}, "hyperparameters": {"initial_weights": {"learn": True}}},
}  # fmt: skip
SLOW = set(KINDS) - {"squared"}  # engines take long to compile


def hypergradient_of(learner, **engine):
    spec = learner.spec
    run = {"num_steps": spec.training.num_steps, "optimizer": learner._optimizer, "key": jax.random.key(0)}
    return hypergradient(learner.inner.draw(0).problem, learner.initial(), **run, **engine)


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(parts, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name, parts in KINDS.items()
    ],
)
@pytest.mark.timeout(1500)  # twenty groups of parameters are long in compiling
def test_hypergradients_are_those_of_float64_autodiff(parts):
    learner = learner_of(spec_of(**parts))
    exact, oracle = hypergradient_of(learner), hypergradient_of(learner, engine=unrolled())
    assert exact.certificate.exact
    for name, expected in oracle.gradient.items():
        assert expected.shape == learner.layouts[name].shape
        assert np.linalg.norm(expected) > 0
        assert np.linalg.norm(exact.gradient[name] - expected) <= 1e-8 * np.linalg.norm(expected)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("parts", [KINDS[name] for name in ("cnn", "transformer of rows", "balanced", "huber")])
def test_in_float32_training_is_run_backward_to_the_same_bits(parts):
    training = parts.get("training", {}) | {"dtype": "float32", "num_steps": 30}
    certificate = hypergradient_of(learner_of(spec_of(**parts | {"training": training}))).certificate
    assert (certificate.exact, certificate.mismatched_bits) == (True, 0)


@pytest.mark.parametrize("parts", KINDS.values(), ids=KINDS)
def test_the_shapes_of_parameters_are_those_of_the_groups(parts):
    learner = learner_of(spec_of(**parts))
    params = jax.eval_shape(learner.inner.draw(0).problem.init, learner.initial(), jax.random.key(0))
    assert [leaf.shape for leaf in jax.tree.leaves(params)] == [group.shape for group in learner.groups]
    assert len({group.name for group in learner.groups}) == len(learner.groups)


@pytest.mark.parametrize("model", [CONVOLUTIONS, ROWS, PATCHES, FEATURES | {"width": 4}])
def test_what_is_learned_per_layer_or_unit_finds_its_place(model):
    spec = spec_of({"model": model})
    groups = groups_for(spec)
    layouts = layouts_of(spec, groups)
    assert layouts["init_scale"].shape == (len(groups),)
    assert sum(layers_of(groups)) == len(groups)
    assert layouts["l2"].shape == (sum(units_of(groups)),)
    assert len(units_of(groups)) == len({group.name.rpartition(".")[0] for group in groups})


@pytest.mark.slow
def test_a_penalty_per_unit_is_the_penalty_of_all_units():
    """The same for every unit is the same for all."""
    for model in (CONVOLUTIONS, ROWS):
        values = []
        for per in ([], ["unit"], ["weight"]):
            learner = learner_of(
                spec_of({"model": model}, hyperparameters={"l2": {"learn": True, "per": per, "initial": 0.3}})
            )
            problem, hyper = learner.inner.draw(0).problem, learner.initial()
            params = problem.init(hyper, jax.random.key(1))
            values.append(float(problem.inner_loss(params, hyper, 0, jax.random.key(2))))
        np.testing.assert_allclose(values, values[0], rtol=1e-12)


# Outputs, computed a second time


def drawn(model, info, outputs=3, seed=0):
    groups, rng = groups_of_model(model, info, outputs), np.random.default_rng(seed)
    network = network_of(model, groups, info)
    leaves = {group.name: rng.normal(size=group.shape) * 0.5 for group in groups}
    inputs = rng.normal(size=(5, info.num_features))
    return (
        leaves,
        inputs,
        network.outputs(network.params(list(map(jnp.asarray, leaves.values()))), jnp.asarray(inputs)),
    )


@pytest.mark.parametrize(
    ("kernel", "pool", "image"), [(3, 2, (8, 6)), (1, 1, (3, 4)), (5, 3, (9, 10)), (3, 4, (9, 9))]
)
def test_convolutions_are_scipys(kernel, pool, image):
    model = CNN(kind="cnn", channels=(2, 3) if pool < 4 else (2,), kernel=kernel, pool=pool, activation="tanh")
    info = DatasetInfo("x", 9, image[0] * image[1], 3, False, image)
    leaves, inputs, outputs = drawn(model, info)
    for example, found in zip(inputs, outputs, strict=True):
        hidden = example.reshape(1, *image)
        for number in range(1, len(model.channels) + 1):
            weights, biases = (leaves[f"convolution_{number}.{part}"] for part in ("weights", "biases"))
            summed = np.array(
                [
                    sum(signal.correlate2d(plane, weights[:, :, a, b], "same") for a, plane in enumerate(hidden))
                    + biases[b]
                    for b in range(weights.shape[-1])
                ]
            )
            height, width = (side // pool for side in summed.shape[1:])
            cut = np.tanh(summed)[:, : height * pool, : width * pool]
            hidden = cut.reshape(-1, height, pool, width, pool).mean(axis=(2, 4))
        np.testing.assert_allclose(
            found, hidden.ravel() @ leaves["output.weights"] + leaves["output.biases"], rtol=1e-10
        )


@pytest.mark.parametrize(
    "model", [ROWS, PATCHES | {"patch": 2, "activation": "tanh"}, FEATURES | {"activation": "relu"}]
)
def test_attention_is_that_of_a_second_implementation(model):
    model, image = Transformer.model_validate(model), (4, 6)
    leaves, inputs, outputs = drawn(model, DatasetInfo("x", 9, 24, 3, False, image))

    def affine(x, name):
        return x @ leaves[f"{name}.weights"] + leaves.get(f"{name}.biases", 0)

    def norm(x, name):
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return scaled * (1 + leaves[f"{name}.weights"]) + leaves[f"{name}.biases"]

    gelu = np.vectorize(lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))
    activation = {"gelu": gelu, "tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}[model.activation]
    for example, found in zip(inputs, outputs, strict=True):
        picture = example.reshape(image)
        if model.tokens == "features":
            tokens = example[:, None] * leaves["embedding.weights"] + leaves["embedding.biases"]
        else:
            side = model.patch
            cut = picture if side is None else np.array(
                [picture[a : a + side, b : b + side].ravel() for a in range(0, 4, side) for b in range(0, 6, side)]
            )  # fmt: skip
            tokens = affine(cut, "embedding")
        for number in range(1, model.blocks + 1):
            block = f"block_{number}"
            normed = norm(tokens, f"{block}.norm_of_attention")
            query, key, value = (affine(normed, f"{block}.{one}") for one in ("query", "key", "value"))
            size = model.width // model.heads
            heads = []
            for head in range(model.heads):
                part = slice(head * size, (head + 1) * size)
                shares = special.softmax(query[:, part] @ key[:, part].T / np.sqrt(size), axis=-1)
                heads.append(shares @ value[:, part])
            tokens = tokens + affine(np.concatenate(heads, axis=-1), f"{block}.attention")
            hidden = activation(affine(norm(tokens, f"{block}.norm_of_hidden"), f"{block}.hidden"))
            tokens = tokens + affine(hidden, f"{block}.back")
        np.testing.assert_allclose(found, affine(norm(tokens.mean(0), "norm"), "output"), rtol=1e-9)


def test_what_a_model_cannot_look_at_is_named():
    row, image = DatasetInfo("row", 99, 30, 3, False), DatasetInfo("image", 99, 63, 3, False, (7, 9))
    long = DatasetInfo("long", 99, 2000, 3, False, (2000, 1))
    for model, info, says in (
        (CONVOLUTIONS, row, r"problem.model: convolutions need data with height and width, and row has 30 features"),
        (ROWS, row, r"problem.model: rows need data with height and width"),
        (PATCHES, row, r"problem.model: patches need data with height and width"),
        (PATCHES, image, r"problem.model.patch: 4 does not divide the 7 × 9 pixels of image"),
        (CONVOLUTIONS | {"channels": [1, 1, 1]}, image, r"problem.model.channels: nothing is left .* number 3"),
        (FEATURES, long, r"problem.model.tokens: 2000 features of long are more than 1024 tokens; use mlp"),
        (ROWS, long, r"problem.model.tokens: 2000 rows"),
        ({"kind": "cnn", "channels": [512] * 6, "pool": 1}, DatasetInfo("big", 9, 10**6, 1000, True, (1000, 1000)),
         "problem.model: has .* parameters, more than"),
    ):  # fmt: skip
        spec = (
            spec_of({"model": model, "dataset": {"id": ID, "name": ...}}) if False else spec_of({"model": model})
        )
        from core.architectures import groups_of_model

        with pytest.raises(InvalidSpec, match=says):
            groups_of_model(spec.problem.model, info, 3)


# Losses, beside scikit-learn's and SciPy's


def test_losses_are_those_of_scikit_learn_and_scipy():
    rng = np.random.default_rng(0)
    outputs, classes = rng.normal(size=(200, 4)) * 2, rng.integers(0, 4, 200)
    numbers, targets = rng.normal(size=(200, 1)), rng.normal(size=200)

    def mean(loss, outputs, labels):
        return float(jnp.mean(losses_of(loss, jnp.asarray(outputs), jnp.asarray(labels))))

    one = CrossEntropy(kind="cross_entropy")
    assert mean(one, outputs, classes) == pytest.approx(
        metrics.log_loss(classes, special.softmax(outputs, axis=1))
    )
    assert mean(Squared(kind="squared"), numbers, targets) == pytest.approx(
        metrics.mean_squared_error(targets, numbers[:, 0])
    )
    for q in (0.1, 0.5, 0.9):
        pinball = metrics.mean_pinball_loss(targets, numbers[:, 0], alpha=q)
        assert mean(Quantile(kind="quantile", q=q), numbers, targets) == pytest.approx(pinball)
    for delta in (0.1, 1.0, 3.0):
        huber = special.huber(delta, numbers[:, 0] - targets).mean()
        assert mean(Huber(kind="huber", delta=delta), numbers, targets) == pytest.approx(huber)
    sides = 2 * np.eye(4)[classes] - 1
    for one_class in range(4):
        alone = metrics.hinge_loss(sides[:, one_class], outputs[:, one_class])
        narrow = np.array(
            losses_of(Hinge(kind="hinge", smoothing=1e-9), jnp.asarray(outputs), jnp.asarray(classes))
        )
        every = [metrics.hinge_loss(sides[:, other], outputs[:, other]) for other in range(4)]
        assert narrow.mean() == pytest.approx(sum(every))
        assert alone <= narrow.mean()


def test_the_smoothed_hinge_is_below_the_hinge_and_its_slope_has_no_jump():
    margins = jnp.linspace(-3, 3, 6001)
    outputs = jnp.stack([margins, jnp.full_like(margins, -9.0)], axis=1)
    for width in (0.2, 1.0, 2.0):
        loss = Hinge(kind="hinge", smoothing=width)
        values = np.array(losses_of(loss, outputs, jnp.zeros(6001, int)))
        hinge = np.maximum(0, 1 - np.array(margins))
        assert (values <= hinge + 1e-12).all()
        assert (values >= hinge - width / 2 - 1e-12).all()
        slopes = np.diff(values) / 1e-3
        assert np.abs(np.diff(slopes)).max() < 1.1e-3 / width
        assert slopes.min() == pytest.approx(-1)


def test_measures_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    outputs, targets = rng.normal(size=(200, 1)), rng.normal(size=200)
    found = measures_of(jnp.asarray(outputs), jnp.asarray(targets))
    assert float(found["r2"]) == pytest.approx(metrics.r2_score(targets, outputs[:, 0]))
    assert float(found["mae"]) == pytest.approx(metrics.mean_absolute_error(targets, outputs[:, 0]))
    assert float(found["rmse"]) == pytest.approx(metrics.root_mean_squared_error(targets, outputs[:, 0]))
    assert float(measures_of(jnp.ones((5, 1)), jnp.zeros(5))["r2"]) == 0


def trained(problem, num_steps, **training):
    spec = spec_of(problem, {"num_steps": num_steps, "batch_size": None, "seed": 0} | training, {"step_size": {"learn": True, "initial": 0.1}, "momentum": {"initial": 0.9}})  # fmt: skip
    learner = learner_of(spec)
    return learner, learner._trained(learner.inner.draw(0).problem, learner.initial(), jax.random.key(0))


def test_linear_regression_finds_what_scikit_learn_finds():
    problem = REGRESSION | {"dataset": {"standardise": "all", "split": {"train": 300, "valid": 70, "test": 70}}}
    learner, params = trained(problem, 3000)
    data = learner.inner._data
    found = linear_model.LinearRegression().fit(data.train.inputs, data.train.labels)
    np.testing.assert_allclose(params["layer_1"].weights[:, 0], found.coef_, atol=5e-3)  # not all the way there
    predicted = np.array(learner.inner._program.network.outputs(params, jnp.asarray(data.test.inputs)))[:, 0]
    measures = learner.inner.evaluate(learner.initial(), 0, jax.random.key(0), lambda problem: params).measures
    assert measures["test_r2"] == pytest.approx(metrics.r2_score(data.test.labels, predicted))
    targets = data.test.labels * data.target_unit  # those that were sent, but for their mean
    expected = metrics.root_mean_squared_error(targets, predicted * data.target_unit)
    assert measures["test_rmse"] == pytest.approx(expected)
    assert measures["train_r2"] == pytest.approx(found.score(data.train.inputs, data.train.labels), abs=1e-6)


def test_a_quantile_has_its_share_of_targets_below():
    loss = {"loss": {"kind": "quantile", "q": 0.8}}
    problem = (
        REGRESSION | loss | {"dataset": {"standardise": "all", "split": {"train": 300, "valid": 70, "test": 70}}}
    )
    learner, params = trained(problem, 2000)
    data = learner.inner._data
    predicted = np.array(learner.inner._program.network.outputs(params, jnp.asarray(data.train.inputs)))[:, 0]
    assert (data.train.labels < predicted).mean() == pytest.approx(0.8, abs=0.03)


# Standardised data


def test_standardised_features_have_a_deviation_of_one_over_the_training_part():
    plain, scaled = (
        datasets.load(spec_of(REGRESSION | {"dataset": {"standardise": how}}).problem.dataset, diabetes())
        for how in ("none", "all")
    )
    np.testing.assert_allclose(scaled.train.inputs.std(axis=0), 1)
    np.testing.assert_allclose(scaled.train.inputs.mean(axis=0), 0, atol=1e-12)
    deviation = plain.train.inputs.std(axis=0)
    np.testing.assert_allclose(scaled.test.inputs, plain.test.inputs / deviation)  # by what training knows
    assert (scaled.train.labels.mean(), scaled.train.labels.std()) == pytest.approx((0, 1))
    assert scaled.target_unit == pytest.approx(plain.train.labels.std())
    assert plain.target_unit == 1


def test_constant_features_stay_what_they_are():
    inputs = np.column_stack([np.full(200, 0.1), np.arange(200.0), np.full(200, 1e30)])
    given = GivenData(inputs, np.arange(200) % 2, "a" * 64)
    dataset = UploadedDataset(id=ID, split={"train": 60, "valid": 50, "test": 50}, standardise="features")
    data = datasets.load(dataset, given)
    np.testing.assert_allclose(data.train.inputs[:, [0, 2]] / [1, 1e30], 0, atol=1e-15)
    assert data.train.inputs[:, 1].std() == pytest.approx(1)


# Balanced batches


def unbalanced(rng, classes=4, count=97):
    labels = rng.permutation(
        np.concatenate([np.arange(classes), rng.choice(classes, count, p=[0.7, 0.1, 0.1, 0.1])])
    )
    return labels, DatasetInfo("x", len(labels), 3, classes, False)


def test_every_batch_holds_classes_in_equal_shares():
    labels, info = unbalanced(np.random.default_rng(0))
    members = members_of(labels, info)
    batch = jax.jit(members.batch, static_argnums=1)
    for step in range(400):
        chosen = np.asarray(batch(step, 12))
        assert (np.bincount(labels[chosen], minlength=4) == 3).all(), step
    steps = np.lcm.reduce(np.bincount(labels))  # after which every class has come round
    seen = np.bincount(
        np.concatenate([np.asarray(batch(step, 4)) for step in range(steps)]), minlength=len(labels)
    )
    for one in range(4):
        assert len(set(seen[labels == one])) == 1  # all of a class equally often


def test_batches_depend_on_the_step_alone():
    labels, info = unbalanced(np.random.default_rng(1))
    forward = [np.asarray(members_of(labels, info).batch(step, 8)) for step in range(50)]
    backward = [np.asarray(members_of(labels, info).batch(step, 8)) for step in reversed(range(50))]
    np.testing.assert_array_equal(forward, backward[::-1])
    assert len({one.tobytes() for one in forward}) == 50  # and are not all the same


def test_batches_in_order_are_not_balanced():
    """The negative control."""
    labels, _ = unbalanced(np.random.default_rng(0))
    assert not all((np.bincount(labels[start : start + 12], minlength=4) == 3).all() for start in range(0, 96, 12))


def test_batches_that_cannot_be_balanced_are_refused():
    with pytest.raises(InvalidSpec, match=r"training.batch_size: 15 is no multiple of the 10 classes of digits"):
        groups_for(spec_of(training={"batches": "balanced", "batch_size": 15}))
    labels, info = unbalanced(np.random.default_rng(0))
    with pytest.raises(InvalidSpec, match=r"problem.dataset.split.train: .* 3 classes only, of 4"):
        members_of(labels[labels != 2], info)


def test_batches_of_all_classes_that_are_there():
    """Classes that no example has are left out of the count."""
    info = GivenData(np.zeros((6, 2)), np.array([1, 3, 1, 3, 3, 3]), "a" * 64).info
    assert (info.num_classes, info.classes_present) == (4, 2)
    chosen = members_of(np.array([1, 3, 1, 3, 3, 3]), info).batch(0, 4)
    assert sorted(np.array([1, 3, 1, 3, 3, 3])[np.asarray(chosen)]) == [1, 1, 3, 3]


# Learning


@pytest.mark.slow
def test_a_cnn_learns_digits():
    spec = spec_of(
        {
            "dataset": {"split": {"train": 1000, "valid": 300, "test": 400}},
            "model": {"kind": "cnn", "channels": [8, 16], "activation": "relu"},
        },
        {"num_steps": 150, "batch_size": 50, "batches": "balanced", "optimizer": "adam", "dtype": "float32"},
        {"step_size": {"learn": True, "initial": 0.01}, "init_scale": {"initial": 0.2}},
    )
    learner = Learner.from_spec(spec)
    assert learner.evaluate(learner.initial()).measures["test_accuracy"] > 0.93
