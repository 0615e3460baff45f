"""Schedules: the optimizer's hyperparameters over steps and groups, in one normal form."""

from __future__ import annotations

from reprlib import repr as short
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InvalidOptimizer, InvalidProblem
from core.reversal.optimizers import Optimizer, Params, as_given
from core.reversal.stepping import TreeHypers
from core.trees import flattened


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

    def entries(self, others: Schedule) -> Schedule:
        """Those whose names are among the others'."""
        return Schedule(
            {name: self.rows[name] for name in others.rows}, {name: self.weights[name] for name in others.weights}
        )

    def add_row(self, step: jax.Array, row: dict[str, jax.Array]) -> Schedule:
        """With `row` added to the rows of one step; used to accumulate cotangents."""
        rows = {
            name: values.at[jnp.minimum(step, len(values) - 1)].add(row[name])
            for name, values in self.rows.items()
        }
        return self._replace(rows=rows)


def hypers_of(row: dict[str, jax.Array], weights: dict[str, Params], treedef: Any) -> TreeHypers:
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
        InvalidProblem: a name is missing or unknown, or a value is not real or has none of these shapes.
    """
    names = set(optimizer.hyperparameters)
    needed = {name for name, values in optimizer.hyperparameters.items() if values.default is None}
    if not isinstance(schedule, dict) or not needed <= set(schedule) <= names:
        given = sorted(map(str, schedule)) if isinstance(schedule, dict) else type(schedule).__name__
        optional = f", and if you like {sorted(names - needed)}" if names - needed else ""
        raise InvalidProblem(
            f"schedule must return a dict with exactly {sorted(needed)}{optional} for {optimizer.name}, not {given}"
        )
    defaults = {name: values.default for name, values in optimizer.hyperparameters.items() if name not in schedule}
    groups = len(jax.tree.leaves(params))
    over_time = f"[{num_steps}] (steps), [{num_steps}, {groups}] (steps, groups)"
    shapes = f"give a scalar, {over_time}, or a pytree like the parameters"
    rows, weights = {}, {}
    for name, value in (defaults | schedule).items():
        entries, treedef = flattened(f"schedule {name!r}", value)
        leaves = [_real(name, leaf) for _, leaf in entries]
        real = treedef.unflatten(leaves)
        if len(leaves) == 1 and treedef.num_nodes == 1:
            array = leaves[0]
            if array.shape in {(), (num_steps,), (num_steps, groups), (1, groups)}:
                columns = array.reshape(-1, 1) if array.ndim < 2 else array
                rows[name] = jnp.broadcast_to(columns, (columns.shape[0], groups))
                continue
        if treedef != jax.tree.structure(params):
            raise InvalidProblem(f"schedule {name!r} {_described(value)}; {shapes}")
        try:
            weights[name] = jax.tree.map(lambda leaf, param: jnp.broadcast_to(leaf, param.shape), real, params)
        except ValueError:
            given, like = ([leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (real, params))
            raise InvalidProblem(
                f"schedule {name!r} has leaves of shapes {given}, which do not broadcast to the parameters' {like}; "
                f"{shapes}"
            ) from None
    return Schedule(rows, weights)


def _real(name: str, leaf: Any) -> jax.Array:
    """One leaf of a user's schedule in float64."""
    try:
        array = jnp.asarray(leaf)
    except (TypeError, ValueError):
        raise InvalidProblem(
            f"schedule {name!r} holds {leaf!r}, a {type(leaf).__name__}; give numbers or arrays of them"
        ) from None
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise InvalidProblem(f"schedule {name!r} is {array.dtype}; give real numbers, e.g. its real part")
    if not jnp.issubdtype(array.dtype, jnp.number) and array.dtype != bool:
        raise InvalidProblem(f"schedule {name!r} is {array.dtype}; give numbers")
    return array.astype(jnp.float64)


def _described(value: Any) -> str:
    """What a user's schedule gave for a name, in a few words."""
    leaves = jax.tree.leaves(value)
    if isinstance(value, list | tuple) and len(leaves) == len(value):
        return f"is a {type(value).__name__} of {len(value)}, which stands for no array: wrap it in jnp.array"
    if not leaves:
        return f"is {value!r}"
    shapes = [jnp.shape(leaf) for leaf in leaves]
    return f"has shape {shapes[0] if len(shapes) == 1 else shapes}"


def prepare(schedule: Schedule, optimizer: Optimizer, num_steps: int) -> Schedule:
    """What the optimizer's step reads, from what the user gave. Differentiable.

    Raises:
        InvalidProblem: a hyperparameter that acts through its history was given per weight.
        InvalidOptimizer: the optimizer's `prepare` returned no rows.
    """
    rows = schedule.rows
    if optimizer.prepare is not as_given:
        rows = {name: jnp.broadcast_to(row, (num_steps, row.shape[1])) for name, row in rows.items()}
    try:
        changed = optimizer.prepare(rows)
    except KeyError as missing:
        if not set(missing.args) & set(schedule.weights):
            raise  # a mistake within the optimizer
        raise InvalidProblem(
            f"schedule {missing} of {optimizer.name} acts through its history; give a scalar, one value per "
            "step, or one per step and group, not one per weight"
        ) from None
    if not isinstance(changed, dict) or any(np.ndim(row) != 2 for row in changed.values()):
        raise InvalidOptimizer(
            f"prepare of {optimizer.name} returned {short(changed)}; it must return the rows that step reads, a dict "
            "of arrays [T, groups]"
        )
    # rows that prepare leaves alone keep their length: one row stands for all steps
    kept = {name: schedule.rows[name] if row is rows.get(name) else row for name, row in changed.items()}
    return schedule._replace(rows=kept)


def check(schedule: Schedule, optimizer: Optimizer) -> None:
    """Raise InvalidProblem where a value that the user gave is not finite or out of its range."""
    for name, (low, high, _) in optimizer.hyperparameters.items():
        for leaf in jax.tree.leaves(schedule.rows.get(name, schedule.weights.get(name))):
            if leaf.size == 0:
                continue  # a group without weights
            good, where, value = jax.device_get(_first_bad(leaf, low, high))
            if not good:
                index = [int(i) for i in np.unravel_index(int(where), leaf.shape)]
                raise InvalidProblem(
                    f"schedule {name!r} is {value} at {index}; it must be finite"
                    + (
                        ""
                        if np.isinf(low)
                        else f" and at least {low:g}"
                        if np.isinf(high)
                        else f" and in [{low:g}, {high:g})"
                    )
                )


@jax.jit
def _first_bad(values: jax.Array, low: float, high: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    good = jnp.isfinite(values) & (values >= low) & (values < high)
    where = jnp.argmin(good)
    return jnp.all(good), where, jnp.ravel(values)[where]
