"""Hyperparameters as problems read them: natural values on the device, learned or fixed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from itertools import islice
from operator import add
from typing import TypeVar, cast

import jax
import jax.numpy as jnp

from core.hyperparameters import Group, Layout, layers_of
from core.spec import OPTIMIZERS

Hyper = dict[str, jax.Array]  # learned hyperparameters, unconstrained
_Program = TypeVar("_Program")


@dataclass(frozen=True)
class Hypers:
    """All hyperparameters of a job.

    Attributes:
        optimizer: name of the inner one.
        layouts: of every hyperparameter.
        groups: of the elementary parameters.
        dtype: of these.
    """

    optimizer: str
    layouts: tuple[Layout, ...]
    groups: tuple[Group, ...]
    dtype: str

    @cached_property
    def _by_name(self) -> dict[str, Layout]:
        return {layout.name: layout for layout in self.layouts}

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Layout:
        return self._by_name[name]

    def natural(self, hyper: Hyper, name: str) -> jax.Array:
        """Natural values, float64."""
        layout = self[name]
        return layout.natural(hyper[name], jnp) if layout.learn else jnp.asarray(layout.start.values(layout.shape))

    def schedule(self, hyper: Hyper) -> dict[str, jax.Array]:
        """What the inner optimizer reads."""
        schedule = {}
        for name in OPTIMIZERS[self.optimizer]:
            values = self.natural(hyper, name)
            schedule[name] = values[None] if self[name].axes == ("group",) else values  # [1, groups]
        return schedule

    def initial(self, hyper: Hyper, key: jax.Array) -> list[jax.Array]:
        """Initial weights, an array for each group."""
        if "initial_weights" in self:
            return self._by_group(self.natural(hyper, "initial_weights"))
        scales = jnp.broadcast_to(self.natural(hyper, "init_scale"), len(self.groups))
        return [
            (scale * jax.random.normal(one, group.shape)).astype(self.dtype)
            for scale, group, one in zip(scales, self.groups, jax.random.split(key, len(self.groups)), strict=True)
        ]

    def _by_group(self, each: jax.Array) -> list[jax.Array]:
        """One value for each weight, or for each that tasks share, as arrays shaped like the groups."""
        parts, start = [], 0
        shared = self["initial_weights"].axes == ("shared_weight",)
        for group in self.groups:
            shape = group.shape[1:] if shared else group.shape
            size = math.prod(shape)
            part = each[start : start + size].reshape(shape).astype(self.dtype)
            parts.append(jnp.broadcast_to(part, group.shape))
            start += size
        return parts

    @property
    def has_penalty(self) -> bool:
        """Whether the inner loss has an L2 penalty."""
        return "l2" in self and (self["l2"].learn or bool(self["l2"].start.values(()) != 0))

    def penalty(self, leaves: list[jax.Array], hyper: Hyper) -> jax.Array:
        """Sum of λ·w² over all weights and biases."""
        strengths = self.natural(hyper, "l2").astype(self.dtype)
        squares = [jnp.square(leaf) for leaf in leaves]
        match self["l2"].axes:
            case ("weight",):
                return strengths @ jnp.concatenate([square.ravel() for square in squares])
            case ("unit",):
                by_unit = [square.reshape(-1, square.shape[-1]).sum(axis=0) for square in squares]
                left = iter(by_unit)
                layers = [list(islice(left, count)) for count in layers_of(self.groups)]
                return strengths @ jnp.concatenate([reduce(add, layer) for layer in layers])
            case _:
                return jnp.sum(strengths * jnp.stack([jnp.sum(square) for square in squares]))

    def outer_penalty(self, hyper: Hyper) -> jax.Array | float:
        """What the outer loss gains: for each learned hyperparameter, its `outer_penalty` times its sum of squares."""
        penalties = [
            layout.outer_penalty * jnp.sum(jnp.square(self.natural(hyper, layout.name)))
            for layout in self.layouts
            if layout.learn and layout.outer_penalty
        ]
        return jnp.sum(jnp.stack(penalties)).astype(self.dtype) if penalties else 0.0


def interned(program: _Program) -> _Program:
    """The one object that stands for all equal ones, so that a warm worker finds what it compiled before."""
    return cast(_Program, _intern(program))


@lru_cache(maxsize=16)
def _intern(program: object) -> object:
    return program
