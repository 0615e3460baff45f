"""What a meta-optimization yields and goes on from: made by the numerics, kept by the store. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Values: TypeAlias = dict[str, np.ndarray]  # hyperparameters by name


class Losses(NamedTuple):
    """Mean losses of trained models."""

    outer: float  # what the outer problem descends on
    train: float
    valid: float
    test: float


class Evaluation(NamedTuple):
    """What training leads to, on the evaluation seeds."""

    losses: Losses
    measures: dict[str, float]  # by name, such as test_accuracy


class Trial(NamedTuple):
    """One training run of the search before the descent."""

    number: int
    values: dict[str, float]  # unconstrained, one for all of each hyperparameter searched
    outer_loss: float | None  # None where training diverged


@dataclass(frozen=True)
class Checkpoint:
    """Everything the next meta-iteration depends on, so that a resumed job gives the same bits."""

    iteration: int  # next to run, which is the number done
    values: Values  # unconstrained learned hyperparameters after the last update
    optimizer_state: list[np.ndarray]  # leaves of the outer optimizer's state, of any dtype
    best_iteration: int | None
    best_outer_loss: float | None
    first_norm: float | None  # hypergradient norm of the first meta-iteration
    stopped: bool  # by a rule: no meta-iteration is left, however many were asked for


@dataclass(frozen=True)
class MetaRecord:
    """One meta-iteration. Losses, norm and certificate are those at `values`."""

    iteration: int  # 0-based
    values: Values  # unconstrained learned hyperparameters before this iteration's update
    losses: Losses
    hypergradient_norm: float
    seconds: float
    certificate: dict[str, Any]  # JSON values
    is_best: bool  # lowest outer loss so far
    checkpoint: Checkpoint  # goes on after this iteration
    diagnostics: dict[str, Any] | None = None  # JSON values, by measurement; None where none was due
