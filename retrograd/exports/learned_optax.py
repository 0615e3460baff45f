"""What a Retrograd job has learned, for training with optax. Needs numpy, jax, optax, and learned_optax.npz beside it.

    optimizer()          the job's inner optimizer with its learned schedule, as an optax.GradientTransformation
    penalty(params)      what the inner loss gains: the sum of λ·w² with the learned λ
    initial()            the weights that the job's first evaluation starts from, by the names of their groups
    learned              all else that was learned, by name, such as inputs, labels and example_weights
    about                the job: its specification, its groups, and its losses on the evaluation seeds

Parameters are any pytree whose leaves, in the order of jax.tree.leaves, are the groups: `python learned_optax.py` lists
them. Gradients are of the mean loss plus the penalty, as the job has it.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

with np.load(Path(__file__).with_suffix(".npz"), allow_pickle=False) as _file:
    _arrays = {name: _file[name] for name in _file.files}

about = json.loads(str(_arrays.pop("about")))
groups = {group["name"]: tuple(group["shape"]) for group in about["groups"]}


def _part(prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in _arrays.items() if name.startswith(prefix)}


schedule = _part("schedule/")  # {name: [steps or 1, groups or 1]}
learned = _part("learned/")
_l2 = _part("l2/")  # {group: what its squared weights are multiplied by}


class State(NamedTuple):
    """Steps taken, and the optimizer's memory: a tuple of arrays for each group."""

    step: jax.Array
    memory: tuple[tuple[jax.Array, ...], ...]


def optimizer() -> optax.GradientTransformation:
    """One step for each call, with that step's row of the schedule; after the last step its row stays."""
    change, size = _RULES[about["optimizer"]]

    def init(params: Any) -> State:
        return State(jnp.zeros((), jnp.int32), tuple(_nothing(leaf, size) for leaf in _leaves(params)))

    def update(gradients: Any, state: State, params: Any = None) -> tuple[Any, State]:
        leaves, tree = jax.tree.flatten(gradients)
        if params is None:
            raise ValueError("give update the params as well: penalties and decays are of them")
        weights = _leaves(params)
        changed = [
            change(gradient, memory, _row(state.step, number, gradient.dtype), weight)
            for number, (gradient, memory, weight) in enumerate(zip(leaves, state.memory, weights, strict=True))
        ]
        updates = tree.unflatten([moved for moved, _ in changed])
        return updates, State(state.step + 1, tuple(memory for _, memory in changed))

    return optax.GradientTransformation(init, update)


def penalty(params: Any) -> jax.Array:
    """The sum of λ·w² over all weights; 0 where the job has none."""
    leaves = dict(zip(groups, _leaves(params), strict=True))
    return sum(
        (
            jnp.sum(strength.astype(leaves[name].dtype) * jnp.square(leaves[name]))
            for name, strength in _l2.items()
        ),
        start=jnp.zeros(()),
    )


def initial() -> OrderedDict[str, jax.Array]:
    """Weights before the first step, by group, in the order of the groups (leaves of a plain dict come sorted). To draw
    others: normal, with the standard deviations in `learned` as `init_scale`, where the job has them.
    """
    drawn = _part("initial/")
    return OrderedDict((name, jnp.asarray(drawn[name])) for name in groups)


def _leaves(params: Any) -> list[jax.Array]:
    leaves = jax.tree.leaves(params)
    found, wanted = [leaf.shape for leaf in leaves], list(groups.values())
    if found != wanted:
        raise ValueError(f"the parameters have leaves of shapes {found}, and the job learned for {wanted}")
    return leaves


def _nothing(leaf: jax.Array, size: int) -> tuple[jax.Array, ...]:
    """Memory before the first step: arrays like the weights, then the products of β1 and β2."""
    arrays = (jnp.zeros_like(leaf),) * min(size, 2)
    return arrays + (jnp.ones((), leaf.dtype),) * (size - len(arrays))


def _row(step: jax.Array, group: int, dtype: Any) -> dict[str, jax.Array]:
    row = {}
    for name, values in schedule.items():
        steps, columns = values.shape
        row[name] = jnp.asarray(values)[jnp.minimum(step, steps - 1), group if columns > 1 else 0].astype(dtype)
    return row


# Each: (gradient, memory, hyperparameters of this step and group, weights) → (change of the weights, memory)


def _sgd(g: Any, memory: Any, h: Any, w: Any) -> Any:
    velocity = h["momentum"] * memory[0] - (1 - h["momentum"]) * g
    return h["step_size"] * velocity, (velocity,)


def _heavy_ball(g: Any, memory: Any, h: Any, w: Any) -> Any:
    velocity = h["momentum"] * memory[0] + g
    return -h["step_size"] * velocity, (velocity,)


def _nesterov(g: Any, memory: Any, h: Any, w: Any) -> Any:
    velocity = h["momentum"] * memory[0] + g
    return -h["step_size"] * (g + h["momentum"] * velocity), (velocity,)


def _rmsprop(g: Any, memory: Any, h: Any, w: Any) -> Any:
    square = h["decay"] * memory[1] + (1 - h["decay"]) * g * g
    moment = h["momentum"] * memory[0] + g / (jnp.sqrt(square) + h["epsilon"])
    return -h["step_size"] * moment, (moment, square)


def _adam(g: Any, memory: Any, h: Any, w: Any) -> Any:
    moment = h["b1"] * memory[0] + (1 - h["b1"]) * g
    square = h["b2"] * memory[1] + (1 - h["b2"]) * g * g
    kept1, kept2 = h["b1"] * memory[2], h["b2"] * memory[3]
    move = moment / (1 - kept1) / (jnp.sqrt(square / (1 - kept2)) + h["epsilon"])
    return -h["step_size"] * move, (moment, square, kept1, kept2)


def _adamw(g: Any, memory: Any, h: Any, w: Any) -> Any:
    move, memory = _adam(g, memory, h, w)
    return move - h["step_size"] * h["weight_decay"] * w, memory


_RULES = {
    "sgd": (_sgd, 1),
    "heavy_ball": (_heavy_ball, 1),
    "nesterov": (_nesterov, 1),
    "rmsprop": (_rmsprop, 2),
    "adam": (_adam, 4),
    "adamw": (_adamw, 4),
}


if __name__ == "__main__":
    print(f"Job {about['job_id']}: {about['num_steps']} steps of {about['optimizer']}")
    print("Groups:", *(f"  {name} {list(shape)}" for name, shape in groups.items()), sep="\n")
    for title, found in (("Schedule", schedule), ("Penalty", _l2), ("Learned beside", learned)):
        for name, values in found.items():
            print(f"{title}: {name} {list(values.shape)} from {values.min():.4g} to {values.max():.4g}")
    if about["losses"]:
        print("Losses of the job:", about["losses"])
