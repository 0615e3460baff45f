"""Batches that hold equally many examples of every class: which examples, as a function of the step alone.

Nothing is drawn, so that running backwards sees the batches of running forwards: the examples of a class are taken in
order and cycled, a share of the batch size each step.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.datasets import DatasetInfo
from core.errors import InvalidSpec


class Members(NamedTuple):
    """Numbers of the training examples of each class."""

    examples: jax.Array  # [classes, most], each row filled up from its own start
    counts: jax.Array  # [classes]

    def batch(self, step: jax.Array, size: int) -> jax.Array:
        """Which examples step number `step` trains on, [size], class by class."""
        share = size // len(self.counts)
        places = (step * share + jnp.arange(share)) % self.counts[:, None]
        return jnp.take_along_axis(self.examples, places, axis=1).ravel()


def members_of(labels: np.ndarray, info: DatasetInfo) -> Members:
    """Of the training part.

    Raises:
        InvalidSpec: it lacks a class that the data set has.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < info.classes_present:
        raise InvalidSpec(
            (
                ("problem", "dataset", "split", "train"),
                f"the training part holds examples of {len(classes)} classes only, of {info.classes_present} that "
                f"{info.name} has, and batches are to be balanced; raise it",
            )
        )
    each = [np.resize(np.flatnonzero(labels == one), counts.max()) for one in classes]
    return Members(jnp.asarray(np.stack(each)), jnp.asarray(counts))
