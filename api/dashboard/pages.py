"""The pages: lists, a job, jobs beside each other, a new job, data sets."""

from __future__ import annotations

import json
import shlex
import threading
from typing import Annotated, Any, Literal, get_args
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse
from sqlalchemy.orm import Session

from api.dashboard import curves, schemas, views
from api.dashboard.differences import differences, named_apart
from api.dashboard.rendering import HEADERS, page
from api.dashboard.routes import Page
from api.dashboard.session import VisitorDep
from api.deps import SessionDep
from api.parameters import Absent
from api.places import place
from api.schemas.jobs import JobRead
from core import presets
from core.spec import JobSpec
from core.spec.problems import DATASET_ID
from core.store import datasets, events, jobs, learned, quotas, webhooks
from core.store.errors import NothingLearned, Pruned, UnknownIteration
from core.store.events import Kind
from core.store.keys import Scope
from core.store.models import Dataset, State

_ROWS, _EVENTS, _COMPARED = 25, 100, 8
_LARGE = 100_000  # characters of a specification that a page does not show
_DRAWN_BY_SWAGGER = "style-src 'self' 'unsafe-inline'; img-src 'self' data:"
_frames = threading.BoundedSemaphore(8)  # each holds all of a job's values, hundreds of megabytes of the largest
_PRIVATE = {"Cache-Control": "private, no-store"}


router = APIRouter(include_in_schema=False, route_class=Page)


@router.get("/")
def all_jobs(
    request: Request,
    visitor: VisitorDep,
    session: SessionDep,
    state: Literal["", "queued", "running", "paused", "succeeded", "failed", "cancelled"] = "",
    search: Annotated[str, Query(max_length=200)] = "",
    after: str | Absent = None,
    part: Annotated[str, Query(pattern="^(rows)?$")] = "",
) -> HTMLResponse:
    """Jobs, newest first; `part` is the list alone."""
    found = jobs.page(
        session,
        visitor.project_id,
        state=State(state) if state else None,
        search=search.strip() or None,
        after=after,
        limit=_ROWS,
    )
    return page(
        request,
        "rows.html" if part else "jobs.html",
        jobs=found.jobs,
        next=found.next,
        state=state,
        states=list(State),
        search=search,
        after=after,
        used=None if part else quotas.used(session, visitor.project_id),
        may_write=visitor.may(Scope.WRITE),
    )


@router.get("/jobs/{job_id:uuid}")
def one_job(
    request: Request,
    visitor: VisitorDep,
    session: SessionDep,
    job_id: UUID,
    part: Annotated[str, Query(pattern="^(facts)?$")] = "",
) -> HTMLResponse:
    """A job; `part` is what changes while it runs."""
    job = jobs.get(session, visitor.project_id, job_id)
    read = JobRead.read(job, webhooks.of(session, job.id))
    kept: Any = "all" if job.keeps_every_iteration else learned.kept_iterations(session, job.id)
    context: dict[str, Any] = {
        "job": read,
        "last_event": job.last_event,
        "kept": kept if "initial" in job.losses else [],
        "may_write": visitor.may(Scope.WRITE),
    }
    if part:
        return page(request, "facts.html", **context)
    spec = json.dumps(JobSpec.model_validate(job.spec).model_dump(mode="json", exclude_unset=True), indent=2)
    first = max(0, job.last_event - _EVENTS)
    return page(
        request,
        "job.html",
        **context,
        spec=spec if len(spec) <= _LARGE else None,
        events=list(reversed(events.page(session, job.id, after=first, limit=_EVENTS))),
        views=views.views(job),
        kinds=" ".join(Kind),
        jobs_url=shlex.quote(f"{request.base_url}v1/jobs"),
        url=str(request.base_url).rstrip("/"),
    )


@router.get("/jobs/{job_id:uuid}/curves")
def job_curves(
    visitor: VisitorDep,
    session: SessionDep,
    job_id: UUID,
    points: Annotated[int, Query(ge=10, le=4000)] = 600,
    only: curves.Series | Absent = None,
) -> JSONResponse:
    """Losses and norms over meta-iterations, or one of them, thinned out so that what stands out stays."""
    job = jobs.get(session, visitor.project_id, job_id)
    names = get_args(curves.Series) if only is None else (only,)
    return JSONResponse(curves.over_iterations(session, job, points, names), headers=_PRIVATE)


@router.get("/jobs/{job_id:uuid}/learned")
def job_learned(
    visitor: VisitorDep,
    session: SessionDep,
    job_id: UUID,
    iteration: Annotated[int, Query(ge=0, lt=2**31)],
    points: Annotated[int, Query(ge=10, le=4000)] = 600,
) -> JSONResponse:
    """What is learned after so many updates: schedules, thinned out, and sheets of numbers, made smaller."""
    try:
        with place(_frames, "too many are looking at what is learned"):
            job = jobs.get(session, visitor.project_id, job_id)
            found = views.frame(session, job, iteration, points)
    except (NothingLearned, Pruned, UnknownIteration):
        return JSONResponse({"detail": "not kept"}, status_code=404, headers=_PRIVATE)
    return JSONResponse(found, headers=_PRIVATE)


@router.get("/jobs/{job_id:uuid}/traces")
def job_traces(
    visitor: VisitorDep,
    session: SessionDep,
    job_id: UUID,
    points: Annotated[int, Query(ge=10, le=4000)] = 600,
) -> JSONResponse:
    """Of hyperparameters of few values, all of them over meta-iterations."""
    job = jobs.get(session, visitor.project_id, job_id)
    return JSONResponse(views.traces(session, job, points), headers=_PRIVATE)


@router.get("/compare")
def compare(
    request: Request,
    visitor: VisitorDep,
    session: SessionDep,
    job: Annotated[list[UUID], Query(max_length=_ROWS)] = [],  # noqa: B006 - FastAPI copies it
) -> HTMLResponse:
    """Jobs beside each other: their losses, and the fields in which they differ."""
    wanted = list(dict.fromkeys(job))
    found = [jobs.get(session, visitor.project_id, one) for one in wanted[:_COMPARED]]
    return page(
        request,
        "compare.html",
        jobs=found,
        names=named_apart(found),
        differences=differences(found),
        left=len(wanted) - len(found),
    )


@router.get("/new")
def new_job(
    request: Request,
    visitor: VisitorDep,
    session: SessionDep,
    preset: str = "digits-schedules",
    copy: UUID | None = None,
    dataset: Annotated[str, Query(pattern=DATASET_ID)] | Absent = None,
) -> HTMLResponse:
    """A form for a job, filled in from a preset, another job, or to be about a data set."""
    spec = _start(session, visitor.project_id, preset, copy)
    if dataset is not None:
        spec = _about(datasets.get(session, visitor.project_id, dataset).row)
    return page(
        request,
        "new.html",
        preset=preset,
        presets=presets.names(),
        copied=copy,
        spec=spec.model_dump(mode="json", exclude_none=True, exclude_unset=True),
        may_write=visitor.may(Scope.WRITE),
    )


@router.get("/new/schema")
def schema(visitor: VisitorDep, session: SessionDep) -> JSONResponse:
    """What the form is made of: the JSON Schema of a new job, with what this project has uploaded."""
    return JSONResponse(schemas.of_new_job(session, visitor.project_id), headers=_PRIVATE)


@router.get("/docs")
def docs(request: Request) -> HTMLResponse:
    """Every call of the API. It asks for no key: what it says is what `/openapi.json` says."""
    found = page(request, "docs.html")
    found.headers["Content-Security-Policy"] = f"{HEADERS['Content-Security-Policy']}; {_DRAWN_BY_SWAGGER}"
    return found


@router.get("/data")
def all_data(
    request: Request, visitor: VisitorDep, session: SessionDep, after: str | Absent = None
) -> HTMLResponse:
    """Uploaded data sets, newest first, and a form to send one."""
    found = datasets.page(session, visitor.project_id, after=after, limit=_ROWS)
    return page(request, "data.html", found=found, may_write=visitor.may(Scope.WRITE))


def _start(session: Session, project: UUID, preset: str, copy: UUID | None) -> JobSpec:
    if copy is not None:
        return _anew(JobSpec.model_validate(jobs.get(session, project, copy).spec))
    return presets.get(preset)


def _anew(spec: JobSpec) -> JobSpec:
    """Without what the server fills in when a job is created: a new one may be about a later version."""
    problem = spec.problem
    if spec.own is not None:
        pinned = {"sha256", "version", "shapes", "data_sha256"} & set(type(problem).model_fields)
        problem = problem.model_copy(update=dict.fromkeys(pinned))
    elif spec.uploaded is not None:
        problem = problem.model_copy(update={"dataset": spec.uploaded.model_copy(update={"sha256": None})})
    return spec.model_copy(update={"problem": problem})


def _about(data: Dataset) -> JobSpec:
    """A job that learns from uploaded data: half of them to train on."""
    info = datasets.described(data)
    quarter = max(1, info.num_examples // 4)
    split = {"train": max(1, info.num_examples - 2 * quarter), "valid": quarter, "test": quarter}
    problem = {
        "kind": "classifier" if info.num_classes else "regression",
        "dataset": {"id": data.id, "split": split, "standardise": "features" if info.num_classes else "all"},
        "model": {"kind": "mlp", "hidden": [32]},
    }
    training = {"optimizer": "adam", "num_steps": 100}
    learned = {"step_size": {"learn": True, "per": ["step", "group"], "initial": 0.01}}
    return JobSpec.model_validate(
        {"name": data.name, "problem": problem, "training": training, "hyperparameters": learned}
    )
