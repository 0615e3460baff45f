"""What was learned, exported: training with optax or PyTorch outside the service ends where the job's training does."""

import importlib.util
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from core import datasets
from core.hyperparameters import layouts_of
from core.learning import Learner
from core.spec import JobSpec
from retrograd.exports import Framework, schedule
from tests.compiled import compilations_go_with_their_module  # noqa: F401

STEPS, BATCH = 12, 50
SPLIT = {"train": 200, "valid": 50, "test": 50}
MLP = {"kind": "mlp", "hidden": [6], "activation": "tanh"}
CNN = {"kind": "cnn", "channels": [3], "kernel": 3, "pool": 2, "activation": "relu"}
PER_STEP = {"learn": True, "per": ["step", "group"]}


def spec_of(optimizer="sgd", model=MLP, l2=("weight",), **hyperparameters):
    return JobSpec.model_validate(
        {
            "problem": {"kind": "classifier", "dataset": {"name": "digits", "split": SPLIT}, "model": model},
            "training": {"optimizer": optimizer, "num_steps": STEPS, "batch_size": BATCH, "dtype": "float64"},
            "hyperparameters": {
                "step_size": PER_STEP | {"initial": 0.05},
                "l2": {"learn": True, "per": list(l2), "initial": 1e-3},
                "init_scale": {"learn": True, "per": ["group"], "initial": 0.3},
            }
            | hyperparameters,
        }
    )


class Exported:
    """A job whose learned values are a random draw around its start, and the module that was written of it."""

    def __init__(self, spec, framework, folder):
        learner = Learner.from_spec(spec)
        draw = np.random.default_rng(0)
        values = {name: one + 0.3 * draw.normal(size=one.shape) for name, one in learner.initial().items()}
        self.losses = learner.evaluate_on(values, 0).losses
        natural = {name: layouts_of(spec, learner.groups)[name].natural(one) for name, one in values.items()}
        groups = [{"name": group.name, "shape": list(group.shape)} for group in learner.groups]
        document = json.dumps({"groups": groups, "iteration": 3})
        np.savez(folder / "job.npz", document=np.array(document), **natural)
        job = {
            "id": "0" * 36,
            "spec": spec.model_dump(mode="json"),
            "spec_sha256": spec.sha256(),
            "losses": {"best": self.losses._asdict()},
            "best_iteration": 3,
        }
        self.path, self.arrays = schedule.export(job, folder / "job.npz", Framework(framework), folder / "out")
        found = importlib.util.spec_from_file_location(self.path.stem, self.path)
        self.module = importlib.util.module_from_spec(found)
        found.loader.exec_module(self.module)
        self.data = datasets.load(spec.problem.dataset).train


def batches(data):
    for step in range(STEPS):
        start = step % (len(data.labels) // BATCH) * BATCH
        yield data.inputs[start : start + BATCH], data.labels[start : start + BATCH]


def trained_with_optax(exported):
    """Layers as a user would have them: a plain training loop."""
    module = exported.module
    params = module.initial()
    optimizer = module.optimizer()

    def loss(params, inputs, labels):
        hidden = jnp.tanh(inputs @ params["layer_1.weights"] + params["layer_1.biases"])
        logits = hidden @ params["layer_2.weights"] + params["layer_2.biases"]
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(params, state, inputs, labels):
        gradient = jax.grad(lambda params: loss(params, inputs, labels) + module.penalty(params))(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for inputs, labels in batches(exported.data):
        params, state = step(params, state, inputs, labels)
    return float(loss(params, exported.data.inputs, exported.data.labels))


LATER = [pytest.param(name, marks=pytest.mark.slow) for name in ("heavy_ball", "nesterov", "rmsprop", "adam")]
ALL = ["sgd", "adamw", *LATER]
DECAYS = {
    "sgd": {"momentum": PER_STEP},
    "rmsprop": {"decay": PER_STEP, "epsilon": {"initial": 1e-3}},
    "adam": {
        "b1": PER_STEP,
        "b2": {"learn": True, "per": ["group"], "initial": 0.99},
        "epsilon": {"initial": 1e-3},
    },
    "adamw": {"weight_decay": {"learn": True, "initial": 0.1}, "epsilon": {"initial": 1e-3}},
}


@pytest.mark.parametrize("optimizer", ALL)
def test_training_with_optax_ends_where_the_job_does(optimizer, tmp_path):
    exported = Exported(spec_of(optimizer, **DECAYS.get(optimizer, {})), "optax", tmp_path)
    assert trained_with_optax(exported) == pytest.approx(exported.losses.train, rel=1e-8)


@pytest.mark.parametrize(
    "axes", [("unit",), *(pytest.param(axes, marks=pytest.mark.slow) for axes in ((), ("group",)))]
)
def test_penalties_of_every_granularity_are_the_jobs(axes, tmp_path):
    exported = Exported(spec_of(l2=axes), "optax", tmp_path)
    assert trained_with_optax(exported) == pytest.approx(exported.losses.train, rel=1e-8)


def test_another_schedule_ends_elsewhere(tmp_path):
    exported = Exported(spec_of(), "optax", tmp_path)
    exported.module.schedule["step_size"] = exported.module.schedule["step_size"] * 1.01
    assert trained_with_optax(exported) != pytest.approx(exported.losses.train, rel=1e-4)


def test_learned_initial_weights_are_where_training_starts(tmp_path):
    exported = Exported(spec_of(init_scale=None, initial_weights={"learn": True}), "optax", tmp_path)
    assert trained_with_optax(exported) == pytest.approx(exported.losses.train, rel=1e-8)


@pytest.mark.parametrize("optimizer", ALL)
def test_training_with_pytorch_ends_where_the_job_does(optimizer, tmp_path):
    torch = pytest.importorskip("torch")
    exported = Exported(spec_of(optimizer, **DECAYS.get(optimizer, {})), "pytorch", tmp_path)
    model = torch.nn.Sequential(torch.nn.Linear(64, 6), torch.nn.Tanh(), torch.nn.Linear(6, 10)).double()
    assert trained_with_pytorch(torch, exported, model) == pytest.approx(exported.losses.train, rel=1e-8)


def test_convolutions_are_laid_out_as_pytorch_has_them(tmp_path):
    torch = pytest.importorskip("torch")
    exported = Exported(spec_of(model=CNN), "pytorch", tmp_path)
    model = torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 8, 8)),
        torch.nn.Conv2d(1, 3, 3, padding="same"),
        torch.nn.ReLU(),
        torch.nn.AvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(48, 10),
    ).double()
    assert trained_with_pytorch(torch, exported, model) == pytest.approx(exported.losses.train, rel=1e-8)


def trained_with_pytorch(torch, exported, model):
    module, parameters = exported.module, list(model.parameters())
    module.set_initial(parameters)
    optimizer = module.Learned(parameters)
    cross_entropy = torch.nn.functional.cross_entropy
    for inputs, labels in batches(exported.data):
        optimizer.zero_grad()
        outputs = model(torch.as_tensor(inputs))
        (cross_entropy(outputs, torch.as_tensor(labels).long()) + module.penalty(parameters)).backward()
        optimizer.step()
    with torch.no_grad():
        outputs = model(torch.as_tensor(exported.data.inputs))
        return float(cross_entropy(outputs, torch.as_tensor(exported.data.labels).long()))


def test_the_module_says_what_is_in_it_and_refuses_other_parameters(tmp_path):
    exported = Exported(spec_of(), "optax", tmp_path)
    said = subprocess.run([sys.executable, exported.path], capture_output=True, text=True, check=True).stdout
    assert f"{STEPS} steps of sgd" in said
    assert "layer_1.weights [64, 6]" in said
    assert f"Schedule: step_size [{STEPS}, 4]" in said
    with pytest.raises(ValueError, match=r"leaves of shapes \[\(3,\)\], and the job learned for"):
        exported.module.optimizer().init([jnp.zeros(3)])
    assert exported.module.learned["init_scale"].shape == (4,)
    assert exported.module.about["losses"]["train"] == exported.losses.train
    optimizer, weights = exported.module.optimizer(), exported.module.initial()
    state = optimizer.init(weights)
    with pytest.raises(ValueError, match="params"):
        optimizer.update(weights, state)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "hypergradient"}, "a hypergradient job learns nothing to train with"),
        (
            {"problem": {"kind": "multitask", "model": MLP}, "training": {"num_steps": 3}},
            "networks of several tasks",
        ),
        (
            {
                "problem": {"kind": "program", "id": "pr_" + "0" * 24},
                "hyperparameters": {},
                "training": {"num_steps": 3},
            },
            "said by its own functions",
        ),
    ],
)
def test_a_job_without_a_schedule_is_refused(changes, said, tmp_path):
    job = {"spec": spec_of().model_dump(mode="json") | changes}
    with pytest.raises(schedule.NotExportable, match=said):
        schedule.export(job, tmp_path / "none.npz", Framework.optax, tmp_path)
