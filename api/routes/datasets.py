"""Data sets: upload, look, delete."""

from __future__ import annotations

import tempfile
from functools import partial
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request, Response

from api.deps import ProjectDep, SenderDep, SessionDep, SettingsDep
from api.parameters import Absent
from api.schemas.datasets import DatasetPage, DatasetPreview, DatasetRead
from api.uploads import NAME_FIELD, Keeper, Sent, received
from core import uploads
from core.errors import InvalidDataset
from core.store import datasets
from core.store.models import Dataset
from core.store.uploads import Stored
from core.uploads.roles import MAX_ROLES_BYTES, Roles

PARSED_AT_ONCE = 2
"""Uploads that are checked at the same time; others wait."""

_TEXTS, _FILES = ("kind", "columns"), ("file", "images", "labels")
_ROLES = Roles.model_json_schema()
_FORM = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": NAME_FIELD,
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
        "columns": _ROLES | {"title": "Columns", "description": "of a table, as JSON: what its columns are for"},
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
async def upload_dataset(
    request: Request, project: SenderDep, settings: SettingsDep, response: Response
) -> DatasetPreview:
    """Check data and keep them; a job names them by `{"id": "ds_…"}`. The same data are stored once.

    Whole numbers are divided by the largest before training, floats are taken as they are.
    """
    async with received(
        request,
        project,
        texts=_TEXTS,
        files=_FILES,
        wrong=InvalidDataset,
        accepted=f"{uploads.ACCEPTED} as files",
        longest_text=MAX_ROLES_BYTES,
    ) as (sent, keeper):
        keep = partial(_keep, keeper, sent, settings.max_dataset_bytes)
        stored, is_new = await to_thread.run_sync(keep, limiter=request.app.state.parsing)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/v1/datasets/{stored.row.id}"
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
    return DatasetPage(data=[DatasetRead.of(one) for one in page.stored], next=page.next)


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


def _keep(keeper: Keeper, sent: Sent, max_bytes: int) -> tuple[Stored[Dataset], bool]:
    with tempfile.TemporaryFile() as file:
        found = uploads.normalise(sent.files, sent.texts.get("kind"), file, max_bytes, sent.texts.get("columns"))
        return keeper.keep(datasets.SETS, sent.name, file, found.sha256, found.size, found.summary)
