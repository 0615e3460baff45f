"""Schedules: the optimizer's hyperparameters over steps and groups, in one normal form."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InvalidProblem
from core.reversal.optimizers import Hypers, Optimizer, Params


class Schedule(NamedTuple):
    """Every hyperparameter stands in one of the two dicts.

    `rows[name]` is [T, groups] float64, or [1, groups] where it is constant in time; `weights[name]` is a pytree
    like the parameters, constant in time.
    """

    rows: dict[str, jax.Array]
    weights: dict[str, Params]

    def row(self, step: jax.Array) -> dict[str, jax.Array]:
        """The rows of one step: {name: [groups]}."""
        return {name: values[jnp.minimum(step, len(values) - 1)] for name, values in self.rows.items()}

    def add_row(self, step: jax.Array, row: dict[str, jax.Array]) -> Schedule:
        """With `row` added to the rows of one step; used to accumulate cotangents."""
        rows = {
            name: values.at[jnp.minimum(step, len(values) - 1)].add(row[name])
            for name, values in self.rows.items()
        }
        return self._replace(rows=rows)


def hypers_of(row: dict[str, jax.Array], weights: dict[str, Params], treedef: Any) -> Hypers:
    """One step's hyperparameters as pytrees like the parameters."""
    return {name: treedef.unflatten(list(values)) for name, values in row.items()} | weights


def normalize(schedule: dict[str, Any], optimizer: Optimizer, params: Params, num_steps: int) -> Schedule:
    """Bring a user's schedule to the normal form. Differentiable in the schedule's values.

    Args:
        schedule: for each hyperparameter of the optimizer a scalar, [T], [T, groups], [1, groups] (constant in
            time), or a pytree like `params`. A bare array is read as one over time first.
        optimizer: tells which names there must be.
        params: pytree of arrays or shapes.
        num_steps: T.

    Raises:
        InvalidProblem: a name is missing or unknown, or a value has none of these shapes.
    """
    if not isinstance(schedule, dict) or set(schedule) != set(optimizer.hyperparameters):
        given = sorted(schedule) if isinstance(schedule, dict) else type(schedule).__name__
        raise InvalidProblem(
            f"schedule must return a dict with exactly {sorted(optimizer.hyperparameters)}, not {given}"
        )
    groups = len(jax.tree.leaves(params))
    rows, weights = {}, {}
    for name, value in schedule.items():
        leaves = jax.tree.leaves(value)
        if len(leaves) == 1 and jax.tree.structure(value).num_nodes == 1:
            array = jnp.asarray(leaves[0], jnp.float64)
            if array.shape in {(), (num_steps,), (num_steps, groups), (1, groups)}:
                columns = array.reshape(-1, 1) if array.ndim < 2 else array
                rows[name] = jnp.broadcast_to(columns, (columns.shape[0], groups))
                continue
        if jax.tree.structure(value) != jax.tree.structure(params):
            shapes = [jnp.shape(leaf) for leaf in leaves]
            raise InvalidProblem(
                f"schedule {name!r} has shape {shapes[0] if len(shapes) == 1 else shapes}; give a scalar, "
                f"[{num_steps}] (steps), [{num_steps}, {groups}] (steps, groups), or a pytree like the parameters"
            )
        weights[name] = jax.tree.map(
            lambda leaf, param: jnp.broadcast_to(jnp.asarray(leaf, jnp.float64), param.shape), value, params
        )
    return Schedule(rows, weights)


def check(schedule: Schedule, optimizer: Optimizer) -> None:
    """Raise InvalidProblem where a value is not finite or outside its hyperparameter's interval."""
    for name, (low, high) in optimizer.hyperparameters.items():
        for leaf in jax.tree.leaves(schedule.rows.get(name, schedule.weights.get(name))):
            values = np.asarray(leaf)
            good = np.isfinite(values) & (values >= low) & (values < high)
            if not good.all():
                where = tuple(int(i) for i in np.argwhere(~good)[0])
                raise InvalidProblem(
                    f"schedule {name!r} is {values[where]} at {list(where)}; it must be finite"
                    + ("" if np.isinf(low) else f" and in [{low:g}, {high:g})")
                )
