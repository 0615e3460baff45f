"""The learned hyperparameters of a job, as a download."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from api.deps import ProjectDep, SessionDep
from api.description import FILE
from api.schemas.results import ResultDocument
from core.results import document
from core.store import jobs

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

Which = Annotated[
    Literal["best", "last"] | Annotated[int, Query(ge=0, lt=2**31)],
    Query(description="best, last, or a number of updates; 0 is the start"),
]
_MEDIA = {"json": "application/json", "npz": "application/x-npz"}


@router.get(
    "/{job_id}/hyperparameters",
    summary="Download learned hyperparameters",
    response_class=StreamingResponse,
    responses={200: {"model": ResultDocument, "content": {_MEDIA["json"]: {}, _MEDIA["npz"]: FILE}}},
)
def download_hyperparameters(
    job_id: UUID,
    project: ProjectDep,
    session: SessionDep,
    iteration: Which = "best",
    format: Annotated[Literal["json", "npz"], Query(description="npz: NumPy arrays by name")] = "json",
) -> StreamingResponse:
    """Natural values, with the axes, groups, transform and unit that are needed to use them."""
    job = jobs.get(session, project, job_id)
    result = document.read(session, job, iteration)
    content = document.as_json(result) if format == "json" else document.as_npz(result)
    name = f"retrograd-{job.id}-{iteration}.{format}"
    return StreamingResponse(
        content, media_type=_MEDIA[format], headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )
