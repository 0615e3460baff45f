"""The result document, and its rendering as a stream: there may be millions of values."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
from sqlalchemy.orm import Session

from core.hyperparameters import Group, Layout
from core.records import Values
from core.store import iterations, jobs, learned, measured
from core.store.learned import Which
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
    measured: Values  # beside them


def read(session: Session, job: Job, which: Which) -> Result:
    """The result document of a job after so many updates.

    Raises:
        NothingLearned, Pruned, UnknownIteration: see `learned.read`.
    """
    found = learned.read(session, job, which)
    beside = measured.read(session, job.id)
    groups, layouts = jobs.layouts_for(job)
    with np.errstate(over="ignore"):  # a value that overflows is shown as null
        values = {name: np.asarray(layouts[name].natural(array)) for name, array in found.values.items()}
    head = {
        "schema": SCHEMA,
        "job_id": str(job.id),
        "state": job.state,
        "iteration": found.iteration,
        "groups": job.groups,
        "hyperparameters": {name: _described(layouts[name], groups) for name in values},
        "fixed": {name: layout.start.described() for name, layout in layouts.items() if not layout.learn},
        "losses": job.losses,
        "certificate": job.certificate,
        "diagnostics": iterations.diagnostics(session, job.id, found.iteration),
        "provenance": job.provenance,
        "measured": {name: {"shape": array.shape} for name, array in beside.items()},
    }
    return Result(job.id, found.iteration, head, values, beside)


def as_json(result: Result) -> Iterator[bytes]:
    """The document as JSON text, in pieces."""
    first = True
    for name, part in result.head.items():
        yield f"{'{' if first else ', '}{json.dumps(name)}: ".encode()
        first = False
        if name in ("hyperparameters", "measured"):
            yield from _with_values(part, result.values if name == "hyperparameters" else result.measured)
        else:
            yield json.dumps(part, allow_nan=False).encode()
    yield b"}\n"


def _with_values(descriptions: dict[str, dict[str, Any]], arrays: Values) -> Iterator[bytes]:
    """{name: {description, "values": array}}."""
    yield b"{"
    for number, (name, array) in enumerate(arrays.items()):
        description = json.dumps(descriptions[name])[:-1]
        yield f'{", " if number else ""}{json.dumps(name)}: {description}, "values": '.encode()
        yield from _array_as_json(array)
        yield b"}"
    yield b"}"


def as_npz(result: Result) -> Iterator[bytes]:
    """The values as NumPy arrays by name, what was measured as `measured/NAME`, and the rest of the document as JSON
    text named `document`.
    """
    beside = {f"measured/{name}": array for name, array in result.measured.items()}
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
        np.savez(file, allow_pickle=False, document=np.array(json.dumps(result.head)), **result.values, **beside)
        file.seek(0)
        while chunk := file.read(_BYTES_PER_CHUNK):
            yield chunk


def _described(layout: Layout, groups: tuple[Group, ...]) -> dict[str, Any]:
    by_group = not {"group", "weight"}.isdisjoint(layout.axes)
    return {
        "shape": layout.shape,
        "axes": layout.axes,
        "groups": [group.name for group in groups] if by_group else [],
        "transform": layout.transform,
        "unit": layout.unit,
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
