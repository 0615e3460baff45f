"""What each exported function takes and returns, as flat lists of arrays. Follows from the manifest; loads no JAX."""

from __future__ import annotations

from typing import NamedTuple

from core.programs.manifest import KEY_SHAPE, Array, Manifest


class Signature(NamedTuple):
    """Of one exported function."""

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]


def signatures(manifest: Manifest) -> dict[str, Signature]:
    """Of all functions of a program, by name.

    P are the parameters, D the data, H the hyperparameters that the function reads, S a step (int64), K a key:

        init                H K → P                    what training starts from
        init_pullback       H K P → H                  its vector-Jacobian product
        inner_loss          P H D S K → loss
        inner_gradient      P H D S K → P              what training descends on
        inner_linearized    P H D S K → P H R          gradients, and residuals R of their linearization in P
        inner_product       R P → P H                  that linearization: both second-order products of a direction
        outer_loss          P H D K → loss
        outer_gradient      P H D K → loss P H
        schedule            H → entries                those that depend on hyperparameters
        schedule_pullback   H entries → H
        schedule_fixed      → entries                  those that do not
        metrics             P H D K → numbers

    The second derivative is of the gradient, forward over reverse, as the engines take it natively: StableHLO cannot be
    differentiated. Pullbacks are there where something is read.
    """
    params, data = manifest.params, tuple(leaf for leaves in manifest.data.values() for leaf in leaves)
    step, key = Array(shape=(), dtype="int64"), Array(shape=KEY_SHAPE, dtype="uint32")
    number = {name: Array(shape=(), dtype=dtype) for name, dtype in manifest.losses.items()}
    init, inner, outer, schedule = (
        manifest.reading(name) for name in ("init", "inner_loss", "outer_loss", "schedule")
    )
    at_step, at_end = (*params, *inner, *data, step, key), (*params, *outer, *data, key)
    entries = tuple(array for entry in manifest.schedule if entry.reads for array in entry.arrays)
    fixed = tuple(array for entry in manifest.schedule if not entry.reads for array in entry.arrays)
    found = {
        "init": Signature((*init, key), params),
        "inner_loss": Signature(at_step, (number["inner_loss"],)),
        "inner_gradient": Signature(at_step, params),
        "inner_linearized": Signature(at_step, (*params, *inner, *manifest.residuals)),
        "inner_product": Signature((*manifest.residuals, *params), (*params, *inner)),
        "outer_loss": Signature(at_end, (number["outer_loss"],)),
        "outer_gradient": Signature(at_end, (number["outer_loss"], *params, *outer)),
    }
    if init:
        found["init_pullback"] = Signature((*init, key, *params), init)
    if entries:
        found["schedule"] = Signature(schedule, entries)
        found["schedule_pullback"] = Signature((*schedule, *entries), schedule)
    if fixed:
        found["schedule_fixed"] = Signature((), fixed)
    if manifest.metrics:
        real = Array(shape=(), dtype="float64")
        found["metrics"] = Signature(
            (*params, *manifest.reading("metrics"), *data, key), (real,) * len(manifest.metrics)
        )
    return found
