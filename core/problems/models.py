"""Models of every kind: their parameters from leaves in the order of their groups, and their outputs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from core.datasets import DatasetInfo
from core.hyperparameters import Group
from core.problems.convolutions import convolved
from core.problems.networks import activation_of, layers_of, logits_of
from core.problems.transformers import attended
from core.spec import CNN, MLP, LogisticRegression, Transformer

Params = Any  # layers by name


@dataclass(frozen=True)
class Network:
    """A model of some kind, for examples of one shape. Equal ones are one compiled program.

    Attributes:
        model: as the specification has it.
        groups: of its parameters, in the order of their leaves.
        image: height and width of an example, where it has two axes.
    """

    model: LogisticRegression | MLP | CNN | Transformer
    groups: tuple[Group, ...]
    image: tuple[int, int] | None

    def params(self, leaves: Sequence[jax.Array]) -> Params:
        """Parameters whose leaves are these, an array for each group."""
        if isinstance(self.model, LogisticRegression | MLP):
            return layers_of(list(leaves))
        # ordered: the leaves of a plain dict come sorted by name
        return OrderedDict((group.name, leaf) for group, leaf in zip(self.groups, leaves, strict=True))

    def outputs(self, params: Params, inputs: jax.Array) -> jax.Array:
        """[n, outputs] of inputs [n, features]."""
        match self.model:
            case CNN() as model:
                assert self.image is not None  # noqa: S101 - for the type checker
                return convolved(model, self.image, params, inputs)
            case Transformer() as model:
                return attended(model, self.image, params, inputs)
            case dense:
                return logits_of(activation_of(dense), params, inputs)


def network_of(
    model: LogisticRegression | MLP | CNN | Transformer, groups: tuple[Group, ...], info: DatasetInfo
) -> Network:
    """The model for such data. Affine layers have no use for an image's shape."""
    shaped = isinstance(model, CNN | Transformer)
    return Network(model, groups, info.image if shaped else None)
