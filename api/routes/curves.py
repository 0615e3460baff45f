"""Meta-iterations of a job as a table, as a download."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from api import etags
from api.deps import ProjectDep, SessionDep
from api.description import FILE
from api.schemas.fields import ID
from api.schemas.records import CurvesRead
from core.results import curves as files
from core.results.curves import MEDIA, SCHEMA, Format
from core.store import curves, jobs

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_EXAMPLE = {
    "schema": SCHEMA,
    "job_id": ID,
    "state": "running",
    "best_iteration": 2,
    "rows": 2,
    "columns": {
        "iteration": [0, 1],
        "outer_loss": [2.31, 0.52],
        "train_loss": [2.29, 0.41],
        "valid_loss": [2.31, 0.52],
        "test_loss": [2.32, 0.55],
        "hypergradient_norm": [0.81, 0.13],
        "seconds": [1.9, 0.2],
        "exact": [True, True],
        "engine": ["reversible", "reversible"],
        "mode": ["fused", "fused"],
        "mismatched_bits": [0, 0],
        "stored_bits_per_param_step": [1.001, 1.001],
        "bound_bits_per_param_step": [1.0, 1.0],
        "attempt": [1, 1],
        "seeds.cosine": [0.97, None],
    },
}
_CSV = "iteration,outer_loss,train_loss,…\r\n0,2.31,2.29,…\r\n1,0.52,0.41,…\r\n"
_CONTENT: dict[str, dict[str, Any]] = {
    "application/json": {"example": _EXAMPLE},
    "text/csv": {"schema": {"type": "string"}, "example": _CSV},
    MEDIA["parquet"]: FILE,
}


@router.get(
    "/{job_id}/curves",
    summary="Download curves",
    response_class=StreamingResponse,
    responses={
        200: {"model": CurvesRead, "content": _CONTENT, "description": "a file of the format asked for"},
        304: {"description": "nothing has changed since the version that If-None-Match names"},
    },
)
def download_curves(
    job_id: UUID,
    project: ProjectDep,
    session: SessionDep,
    format: Annotated[
        Format,
        Query(
            description="json: a list for each column; csv: a line for each meta-iteration; parquet: the same, typed"
        ),
    ] = "json",
    if_none_match: etags.KnownVersion = None,
) -> Response:
    """A row for each meta-iteration, in order: losses, hypergradient norm, seconds, the certificate's numbers, and one
    number of each diagnostic. Of a job that has done none there are no rows.

    In CSV and Parquet a number that is known is the same bits; in JSON one that is not finite is null.
    """
    job = jobs.get(session, project, job_id)
    if etags.is_among(etags.of(job), if_none_match):
        return Response(status_code=304, headers=etags.headers(job))
    columns = curves.read(session, job)
    name = f"retrograd-{job.id}-curves.{format}"
    return StreamingResponse(
        files.rendered(job, columns, format),
        media_type=MEDIA[format],
        headers=etags.headers(job) | {"Content-Disposition": f'attachment; filename="{name}"'},
    )
