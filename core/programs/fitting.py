"""Whether a job fits the program that it is about. Loads no JAX: the API asks this before a job is taken."""

from __future__ import annotations

import numpy as np

from core.errors import InvalidSpec
from core.own_problems import Misfit, misfits
from core.programs.manifest import Leaf, Manifest
from core.spec import OPTIMIZERS, JobSpec, ProgramProblem

UPLOADED = ("inputs", "labels")
"""The arrays of an uploaded data set."""

NEEDED = {
    "sgd": {"step_size", "momentum"},
    "heavy_ball": {"step_size", "momentum"},
    "nesterov": {"step_size", "momentum"},
    "rmsprop": {"step_size"},
    "adam": {"step_size"},
    "adamw": {"step_size"},
}
"""What the schedule must give each optimizer; the others have values of their own."""


def check_fits(spec: JobSpec, manifest: Manifest) -> None:
    """Raise InvalidSpec where the job asks for what the program is not; names the field."""
    problem = spec.program
    assert problem is not None  # noqa: S101 - for the type checker
    errors = [*_training(spec, manifest), *misfits(problem, manifest.shapes), *_data(problem, manifest)]
    if errors:
        raise InvalidSpec(*errors)


def check_data(name: str, manifest: Manifest, uploaded: dict[str, tuple[tuple[int, ...], str]]) -> None:
    """Raise InvalidSpec unless uploaded arrays can stand for the data set that the program takes under this name.

    They can where they hold as many examples and as many numbers, and their type can be cast without losing its kind:
    images may be given the axes that the program wants, and bytes become floats.

    Args:
        name: of the data set.
        manifest: of the program.
        uploaded: shapes and dtypes of `inputs` and `labels`.
    """
    for leaf in manifest.data[name]:
        shape, dtype = uploaded[leaf.name]
        if not _reshapes(shape, leaf) or not _casts(dtype, leaf):
            raise InvalidSpec(
                (
                    ("problem", "data", name),
                    f"its {leaf.name} are {dtype} of shape {list(shape)}, and the program takes {leaf.dtype} of shape "
                    f"{list(leaf.shape)}; upload such data, or export the program for these",
                )
            )


def _reshapes(shape: tuple[int, ...], leaf: Leaf) -> bool:
    return bool(leaf.shape) and shape[:1] == leaf.shape[:1] and int(np.prod(shape, dtype=object)) == leaf.size


def _casts(dtype: str, leaf: Leaf) -> bool:
    if leaf.dtype in ("bfloat16", "float16"):
        return False  # halves of what was uploaded would be lost silently
    return np.can_cast(np.dtype(dtype), np.dtype(leaf.dtype), "same_kind")


def _training(spec: JobSpec, manifest: Manifest) -> list[Misfit]:
    errors: list[Misfit] = []
    if spec.training.num_steps != manifest.num_steps:
        errors.append(
            (
                ("training", "num_steps"),
                f"the program was exported for {manifest.num_steps} steps, not {spec.training.num_steps}; say so, or "
                "export it again with num_steps",
            )
        )
    given, name = {entry.name for entry in manifest.schedule}, spec.training.optimizer
    if not NEEDED[name] <= given <= set(OPTIMIZERS[name]):
        fitting = [one for one, needed in NEEDED.items() if needed <= given <= set(OPTIMIZERS[one])]
        errors.append(
            (
                ("training", "optimizer"),
                f"the program's schedule gives {', '.join(sorted(given))}, but {name} reads "
                f"{', '.join(OPTIMIZERS[name])}; choose {' or '.join(fitting) or 'another'}, or export it with these",
            )
        )
    return errors


def _data(problem: ProgramProblem, manifest: Manifest) -> list[Misfit]:
    if set(problem.data) != set(manifest.data):
        takes = ", ".join(sorted(manifest.data)) or "none"
        said = f"the program takes data named {takes}; name an uploaded data set for each, and no others"
        return [(("problem", "data"), said)]
    return [
        (
            ("problem", "data", name),
            f"the program takes {', '.join(leaf.name for leaf in leaves)} here, and uploaded data have "
            f"{' and '.join(UPLOADED)}; export it with these names",
        )
        for name, leaves in manifest.data.items()
        if not {leaf.name for leaf in leaves} <= set(UPLOADED)
    ]
