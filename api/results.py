"""The result document, and its rendering as a stream: there may be millions of values."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np

from core.hyperparameters import UNITS, Group, Layout, layouts_of
from core.records import Values
from core.spec import JobSpec
from core.store.learned import Learned
from core.store.models import Job

SCHEMA = "retrograd.hyperparameters.v1"

_VALUES_PER_CHUNK = 1 << 14
_BYTES_PER_CHUNK = 1 << 16
_IN_MEMORY = 16 << 20


class Result(NamedTuple):
    """Learned hyperparameters with what is needed to read them."""

    job_id: UUID
    iteration: int
    head: dict[str, Any]  # all of the document but the values
    values: Values  # natural


def result_of(
    job: Job, learned: Learned, certificate: dict[str, Any] | None, diagnostics: dict[str, Any] | None
) -> Result:
    """The result document of a job after so many updates."""
    groups = tuple(Group(group["name"], tuple(group["shape"])) for group in job.groups)
    layouts = layouts_of(JobSpec.model_validate(job.spec), groups)
    with np.errstate(over="ignore"):  # a value that overflows is shown as null
        values = {name: np.asarray(layouts[name].natural(array)) for name, array in learned.values.items()}
    head = {
        "schema": SCHEMA,
        "job_id": str(job.id),
        "state": job.state,
        "iteration": learned.iteration,
        "groups": job.groups,
        "hyperparameters": {name: _described(layouts[name], groups) for name in values},
        "fixed": {name: layout.initial for name, layout in layouts.items() if not layout.learn},
        "losses": job.losses,
        "certificate": certificate,
        "diagnostics": diagnostics,
        "provenance": job.provenance,
    }
    return Result(job.id, learned.iteration, head, values)


def as_json(result: Result) -> Iterator[bytes]:
    """The document as JSON text, in pieces."""
    head = result.head | {"hyperparameters": None}
    before, after = json.dumps(head, allow_nan=False).split('"hyperparameters": null', 1)
    yield f'{before}"hyperparameters": {{'.encode()
    for number, (name, array) in enumerate(result.values.items()):
        description = json.dumps(result.head["hyperparameters"][name])[:-1]
        yield f'{", " if number else ""}"{name}": {description}, "values": '.encode()
        yield from _array_as_json(array)
        yield b"}"
    yield f"}}{after}\n".encode()


def as_npz(result: Result) -> Iterator[bytes]:
    """The values as NumPy arrays by name, and the rest of the document as JSON text named `document`."""
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
        np.savez(file, allow_pickle=False, document=np.array(json.dumps(result.head)), **result.values)
        file.seek(0)
        while chunk := file.read(_BYTES_PER_CHUNK):
            yield chunk


def _described(layout: Layout, groups: tuple[Group, ...]) -> dict[str, Any]:
    by_group = "group" in layout.axes or "weight" in layout.axes
    return {
        "shape": layout.shape,
        "axes": layout.axes,
        "groups": [group.name for group in groups] if by_group else [],
        "transform": layout.transform,
        "unit": UNITS[layout.name],
    }


def _array_as_json(array: np.ndarray) -> Iterator[bytes]:
    if array.ndim == 0:
        yield json.dumps(_listed(array)).encode()
        return
    rows = max(1, _VALUES_PER_CHUNK // max(1, array[0].size))
    for start in range(0, len(array), rows):
        yield b", " if start else b"["
        yield json.dumps(_listed(array[start : start + rows]))[1:-1].encode()
    yield b"]"


def _listed(array: np.ndarray) -> Any:
    finite = np.isfinite(array)
    if finite.all():
        return array.tolist()
    shown = array.astype(object)
    shown[~finite] = None
    return shown.tolist()
