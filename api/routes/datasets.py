"""Data sets: upload, look, delete."""

from __future__ import annotations

import tempfile
from functools import partial
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request, Response

from api.deps import ProjectDep, SenderDep, SessionDep, SettingsDep
from api.parameters import Absent
from api.schemas.datasets import DatasetPage, DatasetRead
from api.uploads import NAME_FIELD, Keeper, Sent, received
from core import uploads
from core.errors import InvalidDataset
from core.store import datasets
from core.store.models import Dataset
from core.store.uploads import Stored

PARSED_AT_ONCE = 2
"""Uploads that are checked at the same time; others wait."""

_TEXTS, _FILES = ("kind",), ("file", "images", "labels")
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
            "description": "npz archive of `images` or `inputs` (examples × features, or × height × width) and "
            "`labels` (whole numbers from 0); other arrays are ignored",
        },
        "images": {"type": "string", "format": "binary", "description": "IDX file, .gz or not, beside `labels`"},
        "labels": {"type": "string", "format": "binary", "description": "IDX file, .gz or not"},
    },
}

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

DatasetId = Annotated[str, Path(pattern=r"^ds_[0-9a-f]{24}$")]


@router.post(
    "",
    status_code=201,
    summary="Upload a data set",
    responses={200: {"model": DatasetRead, "description": "The project has these data under this name already"}},
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}},
)
async def upload(request: Request, project: SenderDep, settings: SettingsDep, response: Response) -> DatasetRead:
    """Check data and keep them; a job names them by `{"id": "ds_…"}`. The same data are stored once.

    Whole numbers are divided by the largest before training, floats are taken as they are.
    """
    async with received(
        request, project, texts=_TEXTS, files=_FILES, wrong=InvalidDataset, accepted=f"{uploads.ACCEPTED} as files"
    ) as (sent, keeper):
        keep = partial(_keep, keeper, sent, settings.max_dataset_bytes)
        stored, is_new = await to_thread.run_sync(keep, limiter=request.app.state.parsing)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/v1/datasets/{stored.row.id}"
    return DatasetRead.of(stored)


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
def get_dataset(dataset_id: DatasetId, project: ProjectDep, session: SessionDep) -> DatasetRead:
    """Shapes, types, examples of each class, bytes and digest."""
    return DatasetRead.of(datasets.get(session, project, dataset_id))


@router.delete("/{dataset_id}", status_code=204, summary="Delete a data set")
def delete_dataset(dataset_id: DatasetId, project: ProjectDep, session: SessionDep) -> None:
    """Delete a data set that no job still learns from. Results stay, with its digest."""
    datasets.remove(session, project, dataset_id)


def _keep(keeper: Keeper, sent: Sent, max_bytes: int) -> tuple[Stored[Dataset], bool]:
    with tempfile.TemporaryFile() as file:
        found = uploads.normalise(sent.files, sent.texts.get("kind"), file, max_bytes)
        return keeper.keep(datasets.SETS, sent.name, file, found.sha256, found.size, found.summary)
