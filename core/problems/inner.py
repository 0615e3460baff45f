"""What a job needs of its inner problem, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from core.engines import Problem
from core.hyperparameters import Group, Layout
from core.records import Evaluation, Losses

Hyper = dict[str, Any]
Train = Callable[[Problem], Any]
"""Problem → trained parameters, for the hyperparameters and the key at hand."""


class Draw(NamedTuple):
    """What one meta-iteration trains on and is judged by."""

    problem: Problem
    losses: Callable[[Any, Hyper], Losses]  # of trained parameters


class InnerProblem(Protocol):
    """A problem with its data.

    Attributes:
        groups: of its elementary parameters.
        layouts: of every hyperparameter, by name.
        sha256: of its data; None where there are none.
        facts: what is known of its data and worth keeping beside results, by name.
    """

    groups: tuple[Group, ...]
    layouts: dict[str, Layout]
    sha256: str | None
    facts: dict[str, np.ndarray]

    def draw(self, number: int) -> Draw:
        """Of the meta-iteration of this number."""
        ...

    def evaluate(self, hyper: Hyper, number: int, key: jax.Array, train: Train) -> Evaluation:
        """What training with these hyperparameters leads to, on the evaluation seed of this number and key."""
        ...
