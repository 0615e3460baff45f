"""Every call of the API, said once."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx

from retrograd.client.call import (
    Call,
    Cancelled,
    Json,
    Page,
    Seen,
    cancelled,
    changed_job,
    content,
    document,
    figures,
    job,
    nothing,
    page,
    rows,
)

if TYPE_CHECKING:
    from core.spec import JobSpec
    from retrograd.client.curves import Curves
    from retrograd.client.hyperparameters import Hyperparameters

T = TypeVar("T")
Change = Literal["cancel", "pause", "resume", "retry"]

_PLAN_SECONDS = 120.0  # longer than the server lets a plan take
_SILENCE_SECONDS = 60.0  # in an event stream: some comments would have come
_UPLOAD_SECONDS = 600.0  # of silence, while the server checks what it was sent
_PAGE = 100
_KEY = re.compile("[ -~]{1,255}")  # what the server takes

# Jobs


def create_job(
    spec: JobSpec | Mapping[str, Any] | None, preset: str | None, idempotency_key: str | None
) -> Call[Seen]:
    """The same call creates one job, however often it is sent."""
    if (spec is None) == (preset is None):
        raise ValueError("give a job as `spec` or the name of one as `preset`, and not both")
    if idempotency_key is not None and not _KEY.fullmatch(
        idempotency_key
    ):  # and it is not shown: it may be a secret
        raise ValueError("idempotency_key: is no key; give 1 to 255 printable ASCII characters, or none")
    return Call(
        "POST",
        "/v1/jobs",
        job,
        params={"preset": preset},
        headers={"Idempotency-Key": idempotency_key or str(uuid4())},
        json=None if spec is None else _document(spec),
        repeatable=True,
    )


def plan(spec: JobSpec | Mapping[str, Any]) -> Call[Json]:
    return Call(
        "POST",
        "/v1/jobs",
        document,
        params={"dry_run": "true"},
        json=_document(spec),
        repeatable=True,
        seconds=_PLAN_SECONDS,
    )


def get_job(job_id: str) -> Call[Seen]:
    return Call("GET", _job(job_id), job, repeatable=True)


def look_at_job(job_id: str, etag: str | None, deadline: float = math.inf) -> Call[Seen | None]:
    """Spares the server what is known already."""
    headers = {} if etag is None else {"If-None-Match": etag}
    return Call("GET", _job(job_id), changed_job, headers=headers, repeatable=True, deadline=deadline)


def list_jobs(
    limit: int | None = None, state: str | None = None, search: str | None = None, preset: str | None = None
) -> Call[Page]:
    asked = {"limit": _PAGE if limit is None else limit, "state": state, "search": search, "preset": preset}
    return Call("GET", "/v1/jobs", page, params=asked, repeatable=True)


def cancel_jobs(state: str | None, preset: str | None) -> Call[Cancelled]:
    return Call("POST", "/v1/jobs/cancel", cancelled, params={"state": state, "preset": preset})


def change_job(job_id: str, change: Change) -> Call[Seen]:
    """Not to be sent again: the first one may have been heard, and the second is refused then."""
    return Call("POST", _job(job_id, change), job)


def delete_job(job_id: str) -> Call[None]:
    return Call("DELETE", _job(job_id), nothing)


# What jobs leave


def list_iterations(job_id: str, after: int | None) -> Call[Page]:
    asked = {"after": after, "limit": _PAGE}
    return Call("GET", _job(job_id, "iterations"), page, params=asked, repeatable=True)


def curves(job_id: str) -> Call[Curves]:
    return Call("GET", _job(job_id, "curves"), _curves, repeatable=True)


def list_events(job_id: str) -> Call[Page]:
    return Call("GET", _job(job_id, "events"), page, params={"limit": _PAGE}, repeatable=True)


def follow_events(job_id: str, after: int) -> Call[None]:
    """A stream of what happens after the event of this number."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
    return Call("GET", _job(job_id, "events"), nothing, headers=headers, repeatable=True, seconds=_SILENCE_SECONDS)


def hyperparameters(job_id: str, iteration: str | int) -> Call[Hyperparameters]:
    return _learned(job_id, iteration, "npz", _hyperparameters)


def download(job_id: str, iteration: str | int, format: str) -> Call[bytes]:
    return _learned(job_id, iteration, format, content)


def download_curves(job_id: str, format: str) -> Call[bytes]:
    return Call("GET", _job(job_id, "curves"), content, params={"format": format}, repeatable=True)


def list_trials(job_id: str) -> Call[list[Json]]:
    return Call("GET", _job(job_id, "trials"), rows, repeatable=True)


def list_figures(job_id: str) -> Call[list[Json]]:
    return Call("GET", _job(job_id, "figures"), figures, repeatable=True)


def draw_figure(job_id: str, name: str, format: str) -> Call[bytes]:
    return Call("GET", _job(job_id, "figures", f"{name}.{format}"), content, repeatable=True)


def list_deliveries(job_id: str) -> Call[list[Json]]:
    return Call("GET", _job(job_id, "deliveries"), rows, repeatable=True)


def redeliver(job_id: str, delivery_id: str) -> Call[Json]:
    return Call("POST", _job(job_id, "deliveries", delivery_id, "redeliver"), document)


# Data sets and programs: what is sent twice is kept once


def upload_dataset(files: Mapping[str, BinaryIO], name: str, columns: Mapping[str, Any] | None) -> Call[Json]:
    form = {"name": name} | ({} if columns is None else {"columns": json.dumps(columns)})
    return _upload("/v1/datasets", form, files)


def get_dataset(dataset_id: str) -> Call[Json]:
    return Call("GET", _path("/v1/datasets", dataset_id), document, repeatable=True)


def list_datasets(limit: int) -> Call[list[Json]]:
    return Call("GET", "/v1/datasets", rows, params={"limit": limit}, repeatable=True)


def delete_dataset(dataset_id: str) -> Call[None]:
    return Call("DELETE", _path("/v1/datasets", dataset_id), nothing)


def upload_program(file: BinaryIO, name: str) -> Call[Json]:
    return _upload("/v1/programs", {"name": name}, {"file": file})


def get_program(program_id: str) -> Call[Json]:
    return Call("GET", _path("/v1/programs", program_id), document, repeatable=True)


def list_programs(limit: int) -> Call[list[Json]]:
    return Call("GET", "/v1/programs", rows, params={"limit": limit}, repeatable=True)


def delete_program(program_id: str) -> Call[None]:
    return Call("DELETE", _path("/v1/programs", program_id), nothing)


# What jobs may be about


def list_presets() -> Call[list[Json]]:
    return Call("GET", "/v1/presets", rows, repeatable=True)


def get_preset(name: str) -> Call[Json]:
    return Call("GET", _path("/v1/presets", name), document, repeatable=True)


def list_problem_kinds() -> Call[list[Json]]:
    return Call("GET", "/v1/problem-kinds", rows, repeatable=True)


# Project and keys


def get_project() -> Call[Json]:
    return Call("GET", "/v1/project", document, repeatable=True)


def list_keys() -> Call[list[Json]]:
    return Call("GET", "/v1/keys", rows, repeatable=True)


def create_key(name: str, scopes: Sequence[str]) -> Call[Json]:
    return Call("POST", "/v1/keys", document, json={"name": name, "scopes": list(scopes)})


def revoke_key(key_id: str) -> Call[None]:
    return Call("DELETE", _path("/v1/keys", key_id), nothing)


def _learned(job_id: str, iteration: str | int, format: str, read: Callable[[httpx.Response], T]) -> Call[T]:
    asked = {"iteration": iteration, "format": format}
    return Call("GET", _job(job_id, "hyperparameters"), read, params=asked, repeatable=True)


def _hyperparameters(answer: httpx.Response) -> Hyperparameters:
    from retrograd.client.hyperparameters import Hyperparameters  # NumPy: only where arrays are asked for

    return Hyperparameters.read(answer.content)


def _curves(answer: httpx.Response) -> Curves:
    from retrograd.client.curves import Curves

    return Curves.of(document(answer))


def _upload(path: str, form: Mapping[str, str], files: Mapping[str, BinaryIO]) -> Call[Json]:
    return Call("POST", path, document, form=form, files=files, repeatable=True, seconds=_UPLOAD_SECONDS)


def _job(job_id: str, *more: str) -> str:
    return _path("/v1/jobs", job_id, *more)


def _path(root: str, *more: str) -> str:
    return "/".join((root, *(quote(part, safe="") for part in more)))


def _document(spec: JobSpec | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(spec, Mapping):
        return spec
    if not hasattr(spec, "model_dump"):
        raise TypeError(
            f"spec: a job is a dict or a JobSpec, and not {reprlib.repr(spec)}; a preset is named by "
            'jobs.create(preset="…"), and a file is loaded by json.loads(Path("…").read_text())'
        )
    return spec.model_dump(mode="json", exclude_unset=True)
