"""Where the outer loop stands, as arrays that a store keeps, and back."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.meta_optimization import MetaState
from core.records import Checkpoint, Values


def checkpoint_of(state: MetaState) -> Checkpoint:
    """What `resumed` goes on from."""
    return Checkpoint(
        iteration=state.iteration,
        values=to_numpy(state.hyper),
        optimizer_state=[np.asarray(leaf) for leaf in jax.tree.leaves(state.optimizer_state)],
        best_iteration=state.best_iteration,
        best_outer_loss=state.best_value,
        first_norm=state.first_norm,
        stopped=state.stopped,
    )


def resumed(checkpoint: Checkpoint, start: MetaState) -> MetaState:
    """The state that a checkpoint was made of; its optimizer's state has the structure and dtypes of `start`."""
    leaves, treedef = jax.tree.flatten(start.optimizer_state)
    restored = [
        jnp.asarray(saved, leaf.dtype) for saved, leaf in zip(checkpoint.optimizer_state, leaves, strict=True)
    ]
    return MetaState(
        iteration=checkpoint.iteration,
        hyper={name: jnp.asarray(value) for name, value in checkpoint.values.items()},
        optimizer_state=treedef.unflatten(restored),
        best_iteration=checkpoint.best_iteration,
        best_value=checkpoint.best_outer_loss,
        first_norm=checkpoint.first_norm,
        stopped=checkpoint.stopped,
    )


def to_numpy(hyper: Any) -> Values:
    """Hyperparameters of the outer loop, as they are stored."""
    return {name: np.asarray(value) for name, value in hyper.items()}
