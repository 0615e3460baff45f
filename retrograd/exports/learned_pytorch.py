"""What a Retrograd job has learned, for training with PyTorch. Needs numpy, torch, and learned_pytorch.npz beside it.

    Learned(parameters)      the job's inner optimizer with its learned schedule, as a torch.optim.Optimizer
    penalty(parameters)      what the inner loss gains: the sum of λ·w² with the learned λ
    set_initial(parameters)  set them to the weights that the job's first evaluation starts from
    learned                  all else that was learned, by name, such as inputs, labels and example_weights
    about                    the job: its specification, its groups, and its losses on the evaluation seeds

Parameters are given in the order of the groups, which `python learned_pytorch.py` lists: that of model.parameters() for
a Sequential of the job's layers. Arrays are laid out as torch.nn.Linear and Conv2d have them. Gradients are of the mean
loss plus the penalty, as the job has it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

with np.load(Path(__file__).with_suffix(".npz"), allow_pickle=False) as _file:
    _arrays = {name: _file[name] for name in _file.files}

about = json.loads(str(_arrays.pop("about")))
groups = {group["name"]: tuple(group["shape"]) for group in about["groups"]}


def _part(prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in _arrays.items() if name.startswith(prefix)}


schedule = _part("schedule/")  # {name: [steps or 1, groups or 1]}
learned = _part("learned/")
_l2 = _part("l2/")  # {group: what its squared weights are multiplied by}


class Learned(torch.optim.Optimizer):
    """One step for each call, with that step's row of the schedule; after the last step its row stays."""

    def __init__(self, parameters: Iterable[torch.Tensor]) -> None:
        """Of parameters in the order of the groups."""
        super().__init__(_checked(parameters), {"step": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move all parameters by their gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        change = _RULES[about["optimizer"]]
        (all_of_them,) = self.param_groups
        for number, weight in enumerate(all_of_them["params"]):
            if weight.grad is None:
                continue
            row = _row(all_of_them["step"], number)
            weight.add_(change(weight.grad, self.state[weight], row, weight))
        all_of_them["step"] += 1
        return loss


def penalty(parameters: Iterable[torch.Tensor]) -> torch.Tensor:
    """The sum of λ·w² over all weights; 0 where the job has none."""
    weights = dict(zip(groups, _checked(parameters), strict=True))
    total = torch.zeros(())
    for name, strength in _l2.items():
        total = total + (torch.as_tensor(strength).to(weights[name]) * weights[name].square()).sum()
    return total


@torch.no_grad()
def set_initial(parameters: Iterable[torch.Tensor]) -> None:
    """Weights before the first step. To draw others: normal, with the standard deviations in `learned` as
    `init_scale`, one for each group, where the job has them.
    """
    drawn = _part("initial/")
    for weight, name in zip(_checked(parameters), groups, strict=True):
        weight.copy_(torch.as_tensor(drawn[name]))


def _checked(parameters: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    given = list(parameters)
    found, wanted = [tuple(one.shape) for one in given], list(groups.values())
    if found != wanted:
        raise ValueError(f"the parameters have shapes {found}, and the job learned for {wanted}")
    return given


def _row(step: int, group: int) -> dict[str, float]:
    return {
        name: float(values[min(step, len(values) - 1), group if values.shape[1] > 1 else 0])
        for name, values in schedule.items()
    }


def _kept(memory: dict[str, Any], name: str, like: torch.Tensor) -> torch.Tensor:
    if name not in memory:
        memory[name] = torch.zeros_like(like)
    tensor: torch.Tensor = memory[name]
    return tensor


# Each: (gradient, memory, hyperparameters of this step and group, weights) → change of the weights


def _sgd(g: Any, memory: Any, h: Any, w: Any) -> Any:
    velocity = _kept(memory, "velocity", w).mul_(h["momentum"]).sub_(g, alpha=1 - h["momentum"])
    return h["step_size"] * velocity


def _heavy_ball(g: Any, memory: Any, h: Any, w: Any) -> Any:
    velocity = _kept(memory, "velocity", w).mul_(h["momentum"]).add_(g)
    return -h["step_size"] * velocity


def _nesterov(g: Any, memory: Any, h: Any, w: Any) -> Any:
    velocity = _kept(memory, "velocity", w).mul_(h["momentum"]).add_(g)
    return -h["step_size"] * (g + h["momentum"] * velocity)


def _rmsprop(g: Any, memory: Any, h: Any, w: Any) -> Any:
    square = _kept(memory, "square", w).mul_(h["decay"]).add_(g * g, alpha=1 - h["decay"])
    moment = _kept(memory, "moment", w).mul_(h["momentum"]).add_(g / (square.sqrt() + h["epsilon"]))
    return -h["step_size"] * moment


def _adam(g: Any, memory: Any, h: Any, w: Any) -> Any:
    moment = _kept(memory, "moment", w).mul_(h["b1"]).add_(g, alpha=1 - h["b1"])
    square = _kept(memory, "square", w).mul_(h["b2"]).add_(g * g, alpha=1 - h["b2"])
    memory["kept1"] = h["b1"] * memory.get("kept1", 1.0)
    memory["kept2"] = h["b2"] * memory.get("kept2", 1.0)
    scale = (square / (1 - memory["kept2"])).sqrt() + h["epsilon"]
    return -h["step_size"] * moment / (1 - memory["kept1"]) / scale


def _adamw(g: Any, memory: Any, h: Any, w: Any) -> Any:
    return _adam(g, memory, h, w) - h["step_size"] * h["weight_decay"] * w


_RULES = {
    "sgd": _sgd,
    "heavy_ball": _heavy_ball,
    "nesterov": _nesterov,
    "rmsprop": _rmsprop,
    "adam": _adam,
    "adamw": _adamw,
}


if __name__ == "__main__":
    print(f"Job {about['job_id']}: {about['num_steps']} steps of {about['optimizer']}")
    print("Groups:", *(f"  {name} {list(shape)}" for name, shape in groups.items()), sep="\n")
    for title, found in (("Schedule", schedule), ("Penalty", _l2), ("Learned beside", learned)):
        for name, values in found.items():
            print(f"{title}: {name} {list(values.shape)} from {values.min():.4g} to {values.max():.4g}")
    if about["losses"]:
        print("Losses of the job:", about["losses"])
