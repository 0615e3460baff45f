"""What happened to a job: in pages, or as it happens."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import Field

from api.deps import CallerDep, ProjectDep, SessionDep
from api.errors import InvalidParameter
from api.parameters import Absent
from api.schemas.records import EventPage, EventRead
from api.streams import EventStream, Streams
from core.store import events, jobs
from core.store.models import ENDED

_STREAM = "text/event-stream"
_NUMBERS = 2**63

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.get(
    "/{job_id}/events",
    summary="List or follow events",
    response_model=EventPage,
    responses={
        200: {"content": {_STREAM: {"schema": {"type": "string"}}}},
        204: {"description": "a stream that would stay empty: the job has ended, and all its events are known"},
    },
)
def list_events(
    job_id: UUID,
    project: ProjectDep,
    caller: CallerDep,
    session: SessionDep,
    request: Request,
    after: Annotated[int, Query(ge=0, lt=_NUMBERS, description="the last event already known")] = 0,
    limit: Annotated[int, Query(ge=1, le=100, description="events on a page; no matter in a stream")] = 100,
    accept: Annotated[str, Header(description=f"{_STREAM}: follow them as they happen")] = "application/json",
    last_event_id: Annotated[
        Annotated[int, Field(ge=0, lt=_NUMBERS)] | Absent,
        Header(alias="Last-Event-ID", description="of a stream: goes before `after`"),
    ] = None,
) -> EventPage | Response:
    """Events in order, numbered 1, 2, … without gaps: one page, or a stream of server-sent events.

    A stream tells every event once, as `id` (its number), `event` (its kind) and `data` (as in a page), until the
    job's end; a client that comes back with the header `Last-Event-ID` is told what it has missed and no more. A job
    that is retried goes on after its end: ask again from there.
    """
    job = jobs.get(session, project, job_id)
    if not _wants_stream(accept):
        rows = events.page(session, job.id, after=after, limit=limit)
        return EventPage(
            data=[EventRead.model_validate(row) for row in rows],
            next=rows[-1].number if len(rows) == limit else None,
        )
    position = after if last_event_id is None else last_event_id
    if position > job.last_event:
        name = "after" if last_event_id is None else "Last-Event-ID"
        raise InvalidParameter(
            name,
            f"there is no event {position} yet; the latest of this job is {job.last_event}",
            where="query" if last_event_id is None else "header",
        )
    if job.state in ENDED and position == job.last_event:
        return Response(status_code=204)  # has browsers reconnect no more
    streams: Streams = request.app.state.streams
    return EventStream(streams, caller.key_id, job.id, position)


def _wants_stream(accept: str) -> bool:
    return any(kind.partition(";")[0].strip().lower() == _STREAM for kind in accept.split(","))
