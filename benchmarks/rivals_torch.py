"""The yardstick in PyTorch, float32 on the CPU: plain training, and the hypergradient as TorchOpt and `higher` give it.

Both libraries keep the graph of the whole training and differentiate through it, so their memory grows with the
number of steps. Hyperparameters are those of `benchmarks.yardstick`: the step size and the momentum (Adam: β1) of
every step and group, and the initial scale of every group, as natural values; data and loss are the same too. Initial
weights are leaves of the graph, times whose noise their gradient is that of the scales.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

try:
    import torch
    import torchopt

    with warnings.catch_warnings():
        for category in (SyntaxWarning, DeprecationWarning):  # of `is` and escapes in `higher`, as it is compiled
            warnings.simplefilter("ignore", category)
        import higher
except ImportError as error:
    raise ImportError(
        f"the PyTorch rivals need torch, torchopt and higher ({error}); `make bench` installs them, the extra `bench`"
    ) from error

WIDTHS, BATCH, NUM_BATCHES = (784, 50, 50, 50, 10), 250, 10
STEP_SIZE, MOMENTUM, INIT_SCALE = {"sgd": 0.1, "adam": 0.001}, 0.9, 0.05
B2, EPSILON = 0.999, 1e-8

Rows = tuple[tuple[torch.Tensor, ...], ...]  # scalars: of each step, one a group


class Task(NamedTuple):
    """Data, and the noise that initial weights are scaled from, one array a group: weights are [out, in]."""

    inputs: torch.Tensor
    labels: torch.Tensor
    noise: list[torch.Tensor]

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = slice(step % NUM_BATCHES * BATCH, (step % NUM_BATCHES + 1) * BATCH)
        return self.inputs[rows], self.labels[rows]


class Hyper(NamedTuple):
    """Hyperparameters, or the gradient with respect to them."""

    step_size: torch.Tensor  # [T, groups]
    momentum: torch.Tensor  # [T, groups]; β1 of Adam
    init_scale: torch.Tensor  # [groups]


class Outcome(NamedTuple):
    """The outer loss after training, and its gradient."""

    value: torch.Tensor
    gradient: Hyper


def task_of(inputs: np.ndarray, labels: np.ndarray, noise: list[np.ndarray]) -> Task:
    """A task from arrays; weights are [in, out], as the yardstick has them."""
    arrays = [torch.tensor(one.T.copy(), dtype=torch.float32) for one in noise]
    return Task(torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels, dtype=torch.int64), arrays)


def noise_task(seed: int = 0) -> Task:
    """Inputs, labels and initial noise drawn at random: neither time nor memory depends on their values."""
    rng = np.random.default_rng(seed)
    examples = NUM_BATCHES * BATCH
    inputs, labels = rng.random((examples, WIDTHS[0])) - 0.5, rng.integers(0, WIDTHS[-1], examples)
    shapes = [shape for fan_in, fan_out in pairwise(WIDTHS) for shape in ((fan_in, fan_out), (fan_out,))]
    return task_of(inputs, labels, [rng.standard_normal(shape) for shape in shapes])


def leaves_of(step_size: np.ndarray, momentum: np.ndarray, init_scale: np.ndarray) -> Hyper:
    """Hyperparameters to differentiate with respect to."""
    arrays = (step_size, momentum, init_scale)
    return Hyper(*(torch.tensor(one, dtype=torch.float32, requires_grad=True) for one in arrays))


def initial_hyper(optimizer: str, steps: int) -> Hyper:
    """The yardstick's hyperparameters."""
    ones = np.ones((steps, 2 * len(WIDTHS) - 2))
    return leaves_of(STEP_SIZE[optimizer] * ones, MOMENTUM * ones, INIT_SCALE * ones[0])


def torch_rivals(optimizer: str, steps: int) -> dict[str, Callable[[], Outcome]]:
    """Calls that compute the yardstick's hypergradient, by library.

    Args:
        optimizer: sgd, in the convention of `core.engines.sgd`, or adam.
        steps: T.
    """
    torch.set_num_threads(1)  # two are no faster here, and wait for each other where the machine is busy
    task, hyper = noise_task(), initial_hyper(optimizer, steps)
    return {
        "TorchOpt": partial(by_torchopt, task, hyper, optimizer),
        "higher": partial(by_higher, task, hyper, optimizer),
    }


def plain(optimizer: str, steps: int) -> Callable[[], torch.Tensor]:
    """A call that trains with torch.optim, for as many steps and with the same schedule, and nothing more."""
    torch.set_num_threads(1)
    return partial(plain_training, noise_task(), initial_hyper(optimizer, steps), optimizer)


def plain_training(task: Task, hyper: Hyper, optimizer: str) -> torch.Tensor:
    """Outer loss after training with torch.optim."""
    net = network(task, hyper)
    inner = torch_optimizer(net, optimizer)
    schedule = zip(hyper.step_size.tolist(), hyper.momentum.tolist(), strict=True)
    for step, (step_sizes, momenta) in enumerate(schedule):
        for group, step_size, momentum in zip(inner.param_groups, step_sizes, momenta, strict=True):
            group.update(settings(optimizer, step_size, momentum))
        inner.zero_grad()
        loss(net, *task.batch(step)).backward()
        inner.step()
    with torch.no_grad():
        return loss(net, task.inputs, task.labels)


def by_torchopt(task: Task, hyper: Hyper, optimizer: str) -> Outcome:
    """The hypergradient by TorchOpt's `MetaOptimizer`.

    TorchOpt's own sgd and adam hand 1 − γ (1 − β1) to PyTorch as a plain number, so no gradient reaches it, and its
    sgd knows one momentum for all steps. So what the optimizer does is a transformation written for TorchOpt, as its
    interface provides for; every hyperparameter is differentiated, and Adam's β1 as in `core.engines.adam`.
    """
    net = network(task, hyper)
    initial = list(net.parameters())
    transformation = {"sgd": sgd_transformation, "adam": adam_transformation}[optimizer]
    inner = torchopt.MetaOptimizer(net, transformation(initial, hyper.step_size, hyper.momentum))
    for step in range(len(hyper.step_size)):
        inner.step(loss(net, *task.batch(step)))
    return differentiate(loss(net, task.inputs, task.labels), task, hyper, initial)


def by_higher(task: Task, hyper: Hyper, optimizer: str) -> Outcome:
    """The hypergradient by `higher`, every setting overridden in every step.

    All hyperparameters are differentiated, for sgd exactly as in `core.engines.sgd`. Adam as `higher` has it differs
    from Adam as published: ε is added to √ν before its bias is corrected, and step t corrects the first moment by
    1 − β1ᵗ with its own β1 instead of 1 − Πβ1. With constant β1 the weights agree, but gradients of β1 do not.
    """
    gc.collect()  # a patched net refers to itself: without this the last call's graph may still be in memory
    net = network(task, hyper)
    inner = torch_optimizer(net, optimizer)
    rows = zip(scalars(hyper.step_size), scalars(hyper.momentum), strict=True)
    with higher.innerloop_ctx(net, inner, copy_initial_weights=False, track_higher_grads=True) as (patched, outer):
        for step, row in enumerate(rows):
            groups = [settings(optimizer, *scalar) for scalar in zip(*row, strict=True)]
            override = {name: [group[name] for group in groups] for name in groups[0]}
            outer.step(loss(patched, *task.batch(step)), override=override)
        initial = list(patched.parameters(time=0))
        return differentiate(loss(patched, task.inputs, task.labels), task, hyper, initial)


def differentiate(value: torch.Tensor, task: Task, hyper: Hyper, initial: Sequence[torch.Tensor]) -> Outcome:
    """Gradient of `value` from the graph of the training that began at `initial`."""
    step_size, momentum, *weights = torch.autograd.grad(value, [hyper.step_size, hyper.momentum, *initial])
    scales = [torch.sum(one * noise) for one, noise in zip(weights, task.noise, strict=True)]
    return Outcome(value.detach(), Hyper(step_size, momentum, torch.stack(scales)))


def network(task: Task, hyper: Hyper) -> torch.nn.Module:
    """The net with its initial weights; its parameters are the groups, in order."""
    layers: list[torch.nn.Module] = []
    for sizes in pairwise(WIDTHS):
        layers += [torch.nn.Linear(*sizes), torch.nn.Tanh()]
    net = torch.nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for parameter, scale, noise in zip(net.parameters(), hyper.init_scale, task.noise, strict=True):
            parameter.copy_(scale * noise)
    return net


def loss(net: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy."""
    return torch.nn.functional.cross_entropy(net(inputs), labels)


def torch_optimizer(net: torch.nn.Module, optimizer: str) -> torch.optim.Optimizer:
    """An optimizer of PyTorch with the net's groups."""
    groups = [{"params": [parameter]} for parameter in net.parameters()]
    if optimizer == "adam":
        return torch.optim.Adam(groups, eps=EPSILON)
    inner = torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM)
    for parameter in net.parameters():  # else its first velocity is g, not (1 − γ) g
        inner.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return inner


def settings(optimizer: str, step_size: Any, momentum: Any) -> dict[str, Any]:
    """A step's hyperparameters of a group, by PyTorch's names for them."""
    if optimizer == "adam":
        return {"lr": step_size, "betas": (momentum, B2)}
    return {"lr": step_size, "momentum": momentum, "dampening": momentum}


def scalars(rows: torch.Tensor) -> Rows:
    """[T, groups] taken apart at once: the gradient of an index is a whole array of zeros, one for each scalar."""
    return tuple(row.unbind() for row in rows.unbind())


def columns(groups: Sequence[torch.Tensor], params: Any) -> list[int]:
    """The group of each of `params`: TorchOpt takes a layer's biases before its weights."""
    return [next(number for number, group in enumerate(groups) if group is param) for param in params]


def sgd_transformation(
    groups: Sequence[torch.Tensor], step_size: torch.Tensor, momentum: torch.Tensor
) -> torchopt.base.GradientTransformation:
    """v ← γ v − (1 − γ) g ;  w ← w + α v. A state holds v, and the steps that are left."""

    def init(params: Any) -> Any:
        order = columns(groups, params)
        steps = zip(scalars(step_size[:, order]), scalars(momentum[:, order]), strict=True)
        return [torch.zeros_like(param) for param in params], steps

    def update(updates: Any, state: Any, *, params: Any = None, inplace: bool = True) -> tuple[Any, Any]:
        velocities, steps = state
        step_sizes, momenta = next(steps)
        velocities = [v * γ - (1 - γ) * g for v, γ, g in zip(velocities, momenta, updates, strict=True)]
        return tuple(α * v for α, v in zip(step_sizes, velocities, strict=True)), (velocities, steps)

    return torchopt.base.GradientTransformation(init, update)


def adam_transformation(
    groups: Sequence[torch.Tensor], step_size: torch.Tensor, b1: torch.Tensor
) -> torchopt.base.GradientTransformation:
    """m ← β1 m + (1 − β1) g ;  ν ← β2 ν + (1 − β2) g² ;  w ← w − α m̂ / (√ν̂ + ε), bias-corrected as published.

    The corrections, c1 = 1 − Πβ1 and c2 = 1 − β2ᵗ, are moved into the scalars: α √c2/c1 · m / (√ν + ε √c2). A state
    holds m, ν, and the steps that are left.
    """

    def init(params: Any) -> Any:
        order = columns(groups, params)
        roots = (1 - B2 ** torch.arange(1, len(b1) + 1, dtype=torch.float64)).sqrt().float()
        corrected = step_size * roots[:, None] / (1 - torch.cumprod(b1, 0))
        steps = zip(scalars(corrected[:, order]), scalars(b1[:, order]), (EPSILON * roots).tolist(), strict=True)
        return [torch.zeros_like(param) for param in params], [torch.zeros_like(param) for param in params], steps

    def update(updates: Any, state: Any, *, params: Any = None, inplace: bool = True) -> tuple[Any, Any]:
        moments, squares, left = state
        step_sizes, decays, epsilon = next(left)
        moments = [m * β + (1 - β) * g for m, β, g in zip(moments, decays, updates, strict=True)]
        squares = [(ν * B2).addcmul(g, g, value=1 - B2) for ν, g in zip(squares, updates, strict=True)]
        moves = zip(step_sizes, moments, squares, strict=True)
        return tuple(-α * (m / (ν.sqrt() + epsilon)) for α, m, ν in moves), (moments, squares, left)

    return torchopt.base.GradientTransformation(init, update)
