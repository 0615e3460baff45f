"""Data sets: upload, look, delete."""

from __future__ import annotations

import logging
import tempfile
from functools import partial
from typing import Annotated, BinaryIO
from uuid import UUID

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request, Response
from sqlalchemy.orm import Session, sessionmaker
from starlette.datastructures import FormData, UploadFile

from api.deps import ProjectDep, SenderDep, SessionDep, SettingsDep
from api.errors import UnsupportedMediaType
from api.parameters import Absent
from api.schemas.datasets import DatasetPage, DatasetPreview, DatasetRead
from core import uploads
from core.errors import InvalidDataset, StorageUnavailable
from core.quotas import Quotas
from core.storage import Storage
from core.store import datasets, quotas
from core.store.datasets import Stored
from core.uploads.roles import MAX_ROLES_BYTES, Roles

log = logging.getLogger(__name__)

PARSED_AT_ONCE = 2
"""Uploads that are checked at the same time; others wait."""

_MAX_NAME = 200
_TEXTS, _FILES = ("name", "kind", "columns"), ("file", "images", "labels")
_ROLES = Roles.model_json_schema()
_FORM = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": _MAX_NAME},
        "kind": {
            "type": "string",
            "enum": list(uploads.KINDS),
            "description": "by the parts that there are, unless given",
        },
        "file": {
            "type": "string",
            "format": "binary",
            "description": "npz archive of `images` or `inputs` (examples × features, or × height × width), and "
            "of `labels` (whole numbers from 0) or `targets` (numbers to fit); other arrays are ignored. Or a table: "
            "CSV in UTF-8 with names of columns in its first row, or Parquet, with `columns` beside it",
        },
        "columns": _ROLES | {"description": "of a table, as JSON: what its columns are for"},
        "images": {"type": "string", "format": "binary", "description": "IDX file, .gz or not, beside `labels`"},
        "labels": {"type": "string", "format": "binary", "description": "IDX file, .gz or not"},
    },
}

_EXAMPLES = {
    "table": {
        "summary": "A CSV file whose column `price` is a number to fit",
        "value": {
            "name": "houses",
            "file": "rooms,town,price\\n3,Aachen,310.5\\n…",
            "columns": {"target": "price", "task": "regression", "categorical": ["town"], "missing": "mean"},
        },
    },
    "arrays": {"summary": "An npz archive", "value": {"name": "flowers", "kind": "npz", "file": "…"}},
}

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

DatasetId = Annotated[str, Path(pattern=r"^ds_[0-9a-f]{24}$")]


@router.post(
    "",
    status_code=201,
    summary="Upload a data set",
    responses={
        200: {"model": DatasetPreview, "description": "The project has these data under this name already"}
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": _FORM,
                    "encoding": {"columns": {"contentType": "application/json"}},
                    "examples": _EXAMPLES,
                }
            },
        }
    },
)
async def upload(
    request: Request, project: SenderDep, settings: SettingsDep, response: Response
) -> DatasetPreview:
    """Check data and keep them; a job names them by `{"id": "ds_…"}`. The same data are stored once.

    Whole numbers are divided by the largest before training, floats are taken as they are.
    """
    storage = _storage(request)
    _multipart_only(request)
    try:
        async with request.form(max_files=2, max_fields=len(_TEXTS), max_part_size=MAX_ROLES_BYTES) as form:
            name, texts, files = _sent(form)
            keep = partial(
                _keep, request.app.state.sessions, storage, project, name, texts, files, settings.quotas
            )
            limiter = request.app.state.parsing
            stored, is_new = await to_thread.run_sync(keep, settings.max_dataset_bytes, limiter=limiter)
    except OSError as error:
        log.error("an upload could not be kept: %s", error)
        raise StorageUnavailable("the data cannot be stored now; try again later") from error
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/v1/datasets/{stored.dataset.id}"
    return DatasetPreview.of(stored)


@router.get("", summary="List data sets, newest first")
def list_datasets(
    project: ProjectDep,
    session: SessionDep,
    after: Annotated[str | Absent, Query(description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="rows on a page")] = 20,
) -> DatasetPage:
    """One page of the project's data sets."""
    page = datasets.page(session, project, after=after, limit=limit)
    return DatasetPage(data=[DatasetRead.of(one) for one in page.datasets], next=page.next)


@router.get("/{dataset_id}", summary="Look at a data set")
def get_dataset(dataset_id: DatasetId, project: ProjectDep, session: SessionDep) -> DatasetPreview:
    """Shapes, types, examples of each class or a summary of targets, bytes and digest; of tables their columns, with
    what is missing, and the first rows.
    """
    return DatasetPreview.of(datasets.get(session, project, dataset_id))


@router.delete("/{dataset_id}", status_code=204, summary="Delete a data set")
def delete_dataset(dataset_id: DatasetId, project: ProjectDep, session: SessionDep) -> None:
    """Delete a data set that no job still learns from. Results stay, with its digest."""
    datasets.remove(session, project, dataset_id)


def _storage(request: Request) -> Storage:
    storage: Storage | None = request.app.state.storage
    if storage is None:
        raise StorageUnavailable("this server keeps no data; set RETROGRAD_STORAGE_URL to a folder or a bucket")
    return storage


def _multipart_only(request: Request) -> None:
    given = request.headers.get("content-type", "").lower()
    kind, _, parameters = given.partition(";")
    if kind.strip() != "multipart/form-data" or "charset" in parameters:  # it would choose how names are decoded
        raise UnsupportedMediaType(given[:80], "multipart/form-data")


def _sent(form: FormData) -> tuple[str, dict[str, str], dict[str, BinaryIO]]:
    """Name, other texts and files of a request."""
    texts: dict[str, str] = {}
    files: dict[str, BinaryIO] = {}
    for field, value in form.multi_items():
        known, into = (_FILES, files) if isinstance(value, UploadFile) else (_TEXTS, texts)
        if field not in known:
            what = f"a {'file' if known is _FILES else 'text'} named {field[:40]!a}"
            raise InvalidDataset(f"the request holds {what}; send name as text, and {uploads.ACCEPTED} as files")
        if field in into:
            raise InvalidDataset(f"{field}: is there twice; send it once")
        into[field] = value.file if isinstance(value, UploadFile) else value  # type: ignore[assignment]
    name = texts.get("name", "")
    if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        raise InvalidDataset(f"name: is needed, of 1 to {_MAX_NAME} printable characters")
    return name, texts, files


def _keep(
    sessions: sessionmaker[Session],
    storage: Storage,
    project: UUID,
    name: str,
    texts: dict[str, str],
    files: dict[str, BinaryIO],
    defaults: Quotas,
    max_bytes: int,
) -> tuple[Stored, bool]:
    """Check, store, and make known, in an order that leaves nothing that the janitor does not find."""
    with tempfile.TemporaryFile() as file:
        found = uploads.normalise(files, texts.get("kind"), file, max_bytes, texts.get("columns"))
        with sessions.begin() as session:
            datasets.expect(session, found.sha256, found.size)
        storage.put(file, found.sha256)
    with sessions.begin() as session:
        stored, is_new = datasets.add(session, project, name, found.sha256, found.summary)
        if is_new:
            limits = quotas.of(session, project, defaults)
            quotas.check(session, project, limits, added_bytes=stored.size)
        return stored, is_new
