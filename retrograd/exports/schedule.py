"""The learned schedule, penalties and weights of a job as files that train elsewhere: arrays, and a module that
reads them, copied as it stands: `learned_optax` or `learned_pytorch`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import CoreError
from core.hyperparameters import Group, Layout, layers_of, layouts_of
from core.spec import (
    CNN,
    MLP,
    OPTIMIZERS,
    JobSpec,
    LabelledProblem,
    LogisticRegression,
    MultitaskProblem,
    ToyProblem,
)
from core.starts import Exactly
from retrograd.exports import Framework

_HERE = Path(__file__).parent


class NotExportable(CoreError):  # noqa: N818 - named for what happened
    """A job of which there is no schedule to train with elsewhere."""

    code = "not_exportable"


def export(job: Mapping[str, Any], arrays: Path, framework: Framework, folder: Path) -> tuple[Path, Path]:
    """Write what a job has learned as files that train with optax or PyTorch.

    Args:
        job: as the API has it, or as the client's `Job`.
        arrays: the npz file that its `download` saves.
        framework: optax or pytorch.
        folder: made if it is not there; files of these names in it are replaced.

    Returns:
        The module, and the arrays that it reads.

    Raises:
        NotExportable: the job does not learn, is about several tasks, or about a problem of its user's own.
    """
    spec = JobSpec.model_validate(job["spec"])
    if spec.kind != "learn":
        raise NotExportable(f"a {spec.kind} job learns nothing to train with; export one of the kind 'learn'")
    if isinstance(spec.problem, MultitaskProblem):
        raise NotExportable(
            "the networks of several tasks train on one loss together, with weights that they share: no optimizer of "
            "one model does that; `retrograd download --format npz` saves what was learned"
        )
    if spec.own is not None:
        raise NotExportable(
            f"what the hyperparameters of this {spec.own.kind} mean is said by its own functions: give its `schedule` "
            "what `retrograd download --format npz` saves"
        )
    with np.load(arrays, allow_pickle=False) as file:
        found = {name: file[name] for name in file.files}
    document = json.loads(str(found["document"]))
    best = job["losses"].get("best") if document["iteration"] == job["best_iteration"] else None
    groups = tuple(Group(group["name"], tuple(group["shape"])) for group in document["groups"])
    layouts = layouts_of(spec, groups)
    natural = {
        name: np.asarray(found[name] if layout.learn else layout.start.values(layout.shape), np.float64)
        for name, layout in layouts.items()
    }
    turned = framework is Framework.pytorch and _is_layered(spec)
    by_group = _by_group(spec, groups, layouts, natural)
    content = {name: _turned(array) if turned else array for name, array in by_group.items()}
    shapes = {
        name.partition("/")[2]: array.shape for name, array in content.items() if name.startswith("initial/")
    }
    about = {
        "job_id": job["id"],
        "spec_sha256": job["spec_sha256"],
        "iteration": document["iteration"],
        "optimizer": spec.training.optimizer,
        "num_steps": spec.training.num_steps,
        "batch_size": spec.training.batch_size,
        "groups": [{"name": group.name, "shape": shapes[group.name]} for group in groups],
        "losses": best,
        "spec": job["spec"],
    }
    content |= _scheduled(spec, layouts, natural) | _beside(spec, layouts, natural)
    folder.mkdir(parents=True, exist_ok=True)
    module, data = folder / f"learned_{framework}.py", folder / f"learned_{framework}.npz"
    np.savez_compressed(data, allow_pickle=False, about=np.array(json.dumps(about)), **content)
    shutil.copyfile(_HERE / module.name, module)
    return module, data


def _scheduled(spec: JobSpec, layouts: dict[str, Layout], natural: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """[steps or 1, groups or 1] of each hyperparameter of the optimizer."""
    found = {}
    for name in OPTIMIZERS[spec.training.optimizer]:
        axes = layouts[name].axes
        values = natural[name] if "step" in axes else natural[name][None]
        found[f"schedule/{name}"] = values if "group" in axes else values[:, None]
    return found


def _beside(spec: JobSpec, layouts: dict[str, Layout], natural: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What was learned and is neither the optimizer's nor goes by group; and the scales of initial weights."""
    elsewhere = {*OPTIMIZERS[spec.training.optimizer], "l2", "initial_weights"}
    wanted = {name for name, layout in layouts.items() if layout.learn or name == "init_scale"} - elsewhere
    return {f"learned/{name}": natural[name] for name in sorted(wanted)}


def _by_group(
    spec: JobSpec, groups: tuple[Group, ...], layouts: dict[str, Layout], natural: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Penalties and initial weights, shaped like the groups or so that they fit them."""
    found = {f"initial/{name}": array for name, array in _initial(spec, groups, layouts, natural).items()}
    if "l2" in natural and natural["l2"].any():
        found |= {f"l2/{name}": array for name, array in _penalties(groups, layouts["l2"], natural["l2"]).items()}
    return found


def _penalties(groups: tuple[Group, ...], layout: Layout, strengths: np.ndarray) -> dict[str, np.ndarray]:
    match layout.axes:
        case ("weight",):
            ends = np.cumsum([group.size for group in groups])[:-1]
            parts = np.split(strengths, ends)
            return {group.name: part.reshape(group.shape) for group, part in zip(groups, parts, strict=True)}
        case ("unit",):
            found: dict[str, np.ndarray] = {}
            left, start = iter(groups), 0
            for count in layers_of(groups):
                layer = list(islice(left, count))
                units = layer[-1].shape[-1]
                part, start = strengths[start : start + units], start + units
                found |= {group.name: part.reshape((1,) * (len(group.shape) - 1) + (-1,)) for group in layer}
            return found
        case _:
            each = np.broadcast_to(strengths, len(groups))
            return {group.name: np.array(one) for group, one in zip(groups, each, strict=True)}


def _initial(
    spec: JobSpec, groups: tuple[Group, ...], layouts: dict[str, Layout], natural: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Weights that the job's first evaluation starts from."""
    if isinstance(spec.problem, ToyProblem):
        return {groups[0].name: np.array(spec.problem.start, spec.training.dtype)}
    import jax  # takes a second, and only this needs it

    from core.keys import evaluation_key
    from core.problems.hypers import Hypers

    exactly = [replace(layout, learn=False, start=Exactly.of(natural[layout.name])) for layout in layouts.values()]
    hypers = Hypers(spec.training.optimizer, tuple(exactly), groups, spec.training.dtype)
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        leaves = hypers.initial({}, evaluation_key(0))
        return {group.name: np.asarray(leaf) for group, leaf in zip(groups, leaves, strict=True)}


def _is_layered(spec: JobSpec) -> bool:
    """Whether PyTorch has layers of the same kind, with their weights the other way round."""
    problem = spec.problem
    return isinstance(problem, LabelledProblem) and isinstance(problem.model, LogisticRegression | MLP | CNN)


def _turned(array: np.ndarray) -> np.ndarray:
    """[in, out] as [out, in], and [height, width, in, out] as [out, in, height, width]."""
    return np.ascontiguousarray(np.moveaxis(array, (-1, -2), (0, 1)) if array.ndim > 1 else array)
