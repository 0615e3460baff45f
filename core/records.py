"""What passes between the numerics and the store: one record per meta-iteration. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Values = dict[str, np.ndarray]
"""Learned hyperparameters by name: unconstrained, float64, shaped as `core.hyperparameters.Layout` says."""


class Losses(NamedTuple):
    """Mean losses at the end of training; each part's over all of its examples."""

    outer: float
    train: float
    valid: float
    test: float


@dataclass(frozen=True)
class Checkpoint:
    """All that a meta-optimization needs to go on."""

    iteration: int  # next to run, and so the number done
    values: Values
    optimizer_state: list[np.ndarray]  # leaves of the meta-optimizer's state, any dtype
    best_iteration: int | None
    best_outer_loss: float | None
    first_norm: float | None  # hypergradient norm of meta-iteration 0


@dataclass(frozen=True)
class MetaRecord:
    """One meta-iteration. Losses and hypergradient belong to `values`, before this iteration's update."""

    iteration: int  # from 0
    values: Values
    losses: Losses
    hypergradient_norm: float
    seconds: float
    certificate: dict[str, Any]  # JSON, see `core.hypergradient.certificate`
    is_best: bool  # lowest outer loss so far
    checkpoint: Checkpoint  # after this iteration's update
