"""The problem that everything is measured on: a tanh net 784-50-50-50-10, batch 250, float32; and its relatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from core.datasets import DatasetInfo, Examples, SplitData
from core.engines import Problem, adam, sgd
from core.engines.floating import dynamics
from core.hyperparameters import groups_of, layouts_of
from core.problems.classifier import Classifier
from core.reversal.optimizers import Optimizer
from core.spec import JobSpec

HIDDEN, BATCH, MOMENTUM = (50, 50, 50), 250, 0.9
STEP_SIZE = {"sgd": 0.1, "adam": 0.001}
DECAY = {"sgd": "momentum", "adam": "b1"}  # of the average that is a step's direction
KEY = jax.random.key(0)  # a key, not an array: its dtype does not depend on 64-bit mode


class Case(NamedTuple):
    """What a method is given."""

    problem: Problem
    hyper: dict[str, jax.Array]
    optimizer: Optimizer
    steps: int

    def arguments(self) -> dict[str, Any]:
        """Of `hypergradient` and `plan`."""
        return {
            "problem": self.problem,
            "hyper": self.hyper,
            "optimizer": self.optimizer,
            "num_steps": self.steps,
            "key": KEY,
        }


def yardstick(
    steps: int,
    optimizer: str = "sgd",
    *,
    features: int = 784,
    hidden: tuple[int, ...] = HIDDEN,
    classes: int = 10,
    batch: int = BATCH,
    momentum: float = MOMENTUM,
    l2: float = 0.0,
) -> Case:
    """The yardstick, or a relative of it. Learned are step size and momentum (Adam: β1) of every step and group,
    and the initial scale of every group; a penalty for each, where it does not start at zero. Inputs are noise: neither
    time nor memory depends on their values.
    """
    schedules = {"per": ["step", "group"], "learn": True}
    spec = JobSpec.model_validate(
        {
            "problem": {
                "kind": "classifier",
                "dataset": {"name": "noise", "split": {"train": 10 * batch, "valid": batch, "test": batch}},
                "model": {"kind": "mlp", "hidden": hidden} if hidden else {"kind": "logistic_regression"},
                "outer_loss": "train",
            },
            "training": {"optimizer": optimizer, "num_steps": steps, "batch_size": batch},
            "hyperparameters": {
                "step_size": schedules | {"initial": STEP_SIZE[optimizer]},
                DECAY[optimizer]: schedules | {"initial": momentum},
                "init_scale": {"learn": True, "per": ["group"], "initial": 0.05},
                "l2": {"learn": l2 > 0, "per": ["group"], "initial": l2},
            },
        }
    )
    rng = np.random.default_rng(0)
    part = Examples(rng.random((10 * batch, features)) - 0.5, rng.integers(0, classes, 10 * batch))
    data = SplitData(part, part, part, "", np.zeros(features), np.asarray(part.labels))
    groups = groups_of(spec.problem, features, classes)
    layouts = layouts_of(spec, groups)
    info = DatasetInfo("", len(part.labels), features, classes, square=False)
    problem = Classifier(spec, groups, layouts, data, info).draw(0).problem
    hyper = {name: jnp.asarray(one.initial_values()) for name, one in layouts.items() if one.learn}
    return Case(problem, hyper, {"sgd": sgd, "adam": adam}[optimizer](), steps)


def trained_loss(optimizer: Optimizer, steps: int, problem: Problem, hyper: Any) -> jax.Array:
    """Outer loss after plain training in ordinary floats: one gradient a step and nothing more."""
    state, take = dynamics(problem, hyper, KEY, optimizer, steps)

    def step(state: Any, number: jax.Array) -> tuple[Any, None]:
        return take(state, number)[0], None

    state, _ = jax.lax.scan(step, state, jnp.arange(steps))
    return problem.outer_loss(state.position, hyper, KEY)


def plain_training(case: Case) -> Callable[[], jax.Array]:
    """Plain training, compiled."""
    program = jax.jit(Partial(trained_loss, case.optimizer, case.steps)).lower(case.problem, case.hyper).compile()
    return lambda: program(case.problem, case.hyper)
