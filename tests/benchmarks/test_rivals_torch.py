"""The PyTorch rivals compute what the engines compute: a rival that did less would be too fast."""

import jax
import numpy as np
import pytest

from benchmarks.yardstick import DECAY, KEY, yardstick
from core.engines import hypergradient, unrolled

rivals_torch = pytest.importorskip(
    "benchmarks.rivals_torch", reason="torch, torchopt and higher come with `make bench`", exc_type=ImportError
)

jax.config.update("jax_enable_x64", True)

STEPS = 20
TOLERANCE = {"sgd": 1e-5, "adam": 5e-3}  # float32; Adam amplifies the rounding of the smallest gradients


@pytest.fixture(autouse=True)
def _one_thread():
    """PyTorch's threads spin until all have arrived: seconds become minutes where another process has the core."""
    rivals_torch.torch.set_num_threads(1)


def learned(optimizer):
    """The yardstick and its hyperparameters, made to differ between steps and groups."""
    case, rng = yardstick(STEPS, optimizer), np.random.default_rng(1)
    hyper = {name: values + rng.uniform(-0.3, 0.3, values.shape) for name, values in case.hyper.items()}
    return case._replace(hyper=hyper)


def in_torch(case):
    """The same task and hyperparameters; and what the derivatives of natural values are to be multiplied by."""
    natural = {name: np.exp(case.hyper[name]) for name in ("step_size", "init_scale")}
    decay = DECAY[case.optimizer.name]
    natural["momentum"] = 1 / (1 + np.exp(-case.hyper[decay]))
    weights = jax.tree.leaves(case.problem.init(case.hyper, KEY))
    noise = [np.asarray(one) / scale for one, scale in zip(weights, natural["init_scale"], strict=True)]
    (examples,) = case.problem.outer_loss.args
    task = rivals_torch.task_of(np.array(examples.inputs), np.array(examples.labels), noise)
    slopes = natural | {"momentum": natural["momentum"] * (1 - natural["momentum"])}
    slopes = {decay if name == "momentum" else name: slope for name, slope in slopes.items()}
    return task, rivals_torch.leaves_of(**natural), slopes


@pytest.mark.parametrize(("library", "optimizer"), [("torchopt", "sgd"), ("torchopt", "adam"), ("higher", "sgd")])
def test_rivals_agree_with_the_unrolled_engine(library, optimizer):
    case = learned(optimizer)
    task, hyper, slopes = in_torch(case)
    oracle = hypergradient(**case.arguments(), engine=unrolled())
    outcome = getattr(rivals_torch, f"by_{library}")(task, hyper, optimizer)
    assert float(outcome.value) == pytest.approx(float(oracle.value), rel=1e-5)
    for name, slope in slopes.items():
        expected = np.asarray(oracle.gradient[name])
        found = getattr(outcome.gradient, "momentum" if name == "b1" else name).numpy() * slope
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        print(library, optimizer, name, error)
        assert error < TOLERANCE[optimizer], name


def test_adam_of_higher_agrees_where_its_corrections_do(monkeypatch):
    monkeypatch.setattr(rivals_torch, "EPSILON", 0.0)  # it adds ε elsewhere
    case = learned("adam")
    case.hyper["b1"] = np.full_like(case.hyper["b1"], 2.0)  # it corrects by β1ᵗ, not Πβ1
    task, hyper, _ = in_torch(case)
    reference = rivals_torch.by_torchopt(task, hyper, "adam")
    outcome = rivals_torch.by_higher(task, hyper, "adam")
    assert float(outcome.value) == pytest.approx(float(reference.value), rel=1e-5)
    for name in ("step_size", "init_scale"):
        found, expected = getattr(outcome.gradient, name).numpy(), getattr(reference.gradient, name).numpy()
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        print("higher", "adam", name, error)
        assert error < TOLERANCE["adam"], name


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_plain_training_ends_where_the_engines_do(optimizer):
    case = learned(optimizer)
    decay = DECAY[optimizer]
    case.hyper[decay] = np.full_like(case.hyper[decay], 2.0)  # PyTorch's Adam, too, corrects by β1ᵗ
    task, hyper, _ = in_torch(case)
    oracle = hypergradient(**case.arguments(), engine=unrolled())
    found = float(rivals_torch.plain_training(task, hyper, optimizer))
    assert found == pytest.approx(float(oracle.value), rel=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_ready_calls_differentiate_with_respect_to_everything(optimizer):
    for rival in rivals_torch.torch_rivals(optimizer, 3).values():
        gradient = rival().gradient
        assert gradient.step_size.shape == gradient.momentum.shape == (3, 8)
        for one in gradient:
            assert bool((one != 0).any(axis=-1).all()), one  # in every step
    assert float(rivals_torch.plain(optimizer, 3)()) > 0
