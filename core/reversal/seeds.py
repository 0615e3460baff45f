"""Several training runs at once: along a leading axis of every array that differs between them, over devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

_AXIS = "seeds"


@dataclass(frozen=True)
class Seeds:
    """How the runs lie: one alone (no axis), or `count` of them, in equal parts on `devices`."""

    count: int | None = None
    devices: tuple[Any, ...] = ()

    def map(self, function: Callable[..., Any], axes: tuple[int | None, ...]) -> Callable[..., Any]:
        """`function` for every run. Arguments with axis 0 differ between runs, as do all results; those with None are
        shared.
        """
        if self.count is None:
            return function
        one_each = self.count == len(self.devices)
        local = _squeezed(function, axes) if one_each else jax.vmap(function, in_axes=axes)
        if len(self.devices) == 1:
            return local
        specs = tuple(PartitionSpec() if axis is None else PartitionSpec(_AXIS) for axis in axes)
        mesh = Mesh(np.asarray(self.devices), (_AXIS,))
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(_AXIS), check_vma=False)

    def each(self, tree: Any) -> list[Any]:
        """A tree of every run, apart, all on the first device."""
        if self.count is None:
            return [tree]
        if len(self.devices) > 1:
            tree = jax.device_put(tree, self.devices[0])
        return [jax.tree.map(lambda leaf, index=index: leaf[index], tree) for index in range(self.count)]


ONE = Seeds()


def batch_sizes(count: int, side_by_side: int, devices: int) -> list[int]:
    """How many of `count` runs go at a time, so that `seeds_over_devices` gives no device more than `side_by_side`.

    Full batches, then what still lies evenly on all devices, then what is left, one on a device.
    """
    full, left = divmod(count, side_by_side * devices)
    rest = left % devices
    return [side_by_side * devices] * full + [size for size in (left - rest, rest) if size]


def seeds_over_devices(count: int) -> Seeds:
    """`count` runs, on as many of this process's devices as divide them evenly."""
    devices = jax.local_devices()
    used = max(number for number in range(1, len(devices) + 1) if count % number == 0)
    return Seeds(count, tuple(devices[:used]))


def _squeezed(function: Callable[..., Any], axes: tuple[int | None, ...]) -> Callable[..., Any]:
    """`function` on arguments whose leading axis has length one: the very program that a run alone has."""

    def call(*arguments: Any) -> Any:
        alone = [
            argument if axis is None else jax.tree.map(lambda leaf: leaf[0], argument)
            for argument, axis in zip(arguments, axes, strict=True)
        ]
        return jax.tree.map(lambda leaf: leaf[None], function(*alone))

    return call
