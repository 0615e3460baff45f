"""Figures of a job, drawn when they are asked for."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from sqlalchemy.orm import Session

from api.deps import ProjectDep, SessionDep
from api.description import FILE
from api.places import place
from api.schemas.records import FigureList, FigureSummary
from core.store import jobs

if TYPE_CHECKING:
    from core.figures import JobData

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_MOST_AT_ONCE = 8  # they are drawn one after the other, and each that waits holds a thread and its data
_BUSY = "too many figures are being drawn"
_places = threading.BoundedSemaphore(_MOST_AT_ONCE)
_INERT = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}  # a picture runs nothing
_MEDIA = {"png": "image/png", "svg": "image/svg+xml"}


@router.get("/{job_id}/figures", summary="List figures")
def list_figures(job_id: UUID, project: ProjectDep, session: SessionDep) -> FigureList:
    """What can be drawn of the job as far as it has come."""
    from core import figures  # Matplotlib takes half a second to import; only where figures are asked for

    with place(_places, _BUSY):
        names = figures.names(_data(session, project, job_id))
    return FigureList(
        data=[
            FigureSummary(
                name=name,
                title=figures.FIGURES[name].title,
                png=f"/v1/jobs/{job_id}/figures/{name}.png",
                svg=f"/v1/jobs/{job_id}/figures/{name}.svg",
            )
            for name in names
        ]
    )


@router.get(
    "/{job_id}/figures/{name}.{form}",
    summary="Draw a figure",
    response_class=Response,
    responses={200: {"content": dict.fromkeys(_MEDIA.values(), FILE)}},
)
def draw_figure(
    job_id: UUID,
    name: Annotated[str, Path(pattern=r"^[a-z_]{1,40}$")],
    form: Literal["png", "svg"],
    project: ProjectDep,
    session: SessionDep,
    version: Annotated[
        int, Query(ge=0, lt=2**63, description="any number; with another one, caches ask anew")
    ] = 0,
) -> Response:
    """A figure of the job's results so far."""
    from core import figures

    with place(_places, _BUSY):
        data = _data(session, project, job_id)
        session.commit()  # drawing takes seconds, and needs no database
        return Response(figures.draw(data, name, form), media_type=_MEDIA[form], headers=_INERT)


def _data(session: Session, project: UUID, job_id: UUID) -> JobData:
    from core.results import drawn

    return drawn.read(session, jobs.get(session, project, job_id))
