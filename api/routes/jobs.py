"""Jobs: create, look, change, delete."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field
from sqlalchemy.orm import Session

from api import etags
from api.deps import ProjectDep, QuotasDep, SessionDep, SettingsDep
from api.errors import InvalidParameter, UnsupportedMediaType
from api.parameters import Absent
from api.plans import Planner
from api.schemas.jobs import Cancelled, JobCreated, JobPage, JobRead, JobRequest, JobSummary
from api.schemas.plans import PlanRead
from api.schemas.records import IterationPage, IterationRead, TrialList, TrialRead
from core import presets, receivers
from core.config import Settings
from core.errors import InvalidSpec
from core.hyperparameters import Group, count_learned, layouts_of
from core.shapes import groups_for
from core.spec import JobSpec
from core.store import idempotency, iterations, jobs, pins, trials, webhooks
from core.store.models import Job, State
from core.store.pins import Pinned

_FEWER = "use fewer examples, a smaller model, or fewer axes (per)"
_MOST_HYPERGRADIENTS = 8  # of the largest job, held at once

_EXAMPLES: dict[str, Any] = {
    **{name: {"value": presets.get(name).model_dump(mode="json")} for name in presets.names()},
    "own-program": {
        "summary": "A problem of your own, exported by JAX and sent to POST /v1/programs",
        "value": {
            "problem": {
                "kind": "program",
                "id": "pr_0123456789abcdef01234567",
                "data": {"train": "ds_0123456789abcdef01234567"},
                "learn": ["log_step_size"],
                "initial": {"log_step_size": -1.0},
            },
            "training": {"optimizer": "sgd", "num_steps": 50},
            "meta": {"num_iterations": 20, "step_size": 0.1},
        },
    },
}

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

Preset = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")] | Absent
Unended = Literal["queued", "running", "paused"]
Limit = Annotated[int, Query(ge=1, le=100, description="rows on a page")]
IdempotencyKey = Annotated[
    Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[\x20-\x7e]*$")] | Absent,
    Header(
        alias="Idempotency-Key",
        description="of the client's making. The same request with the same key, within 24 hours, is answered with the "
        "job that it made the first time, and with the header `Idempotent-Replayed: true`",
    ),
]


async def _json_only(request: Request) -> None:
    kind, body = request.headers.get("content-type", "").partition(";")[0].strip().lower(), await request.body()
    if body and kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMediaType(kind)
    if body.strip() == b"null":  # else it would pass for no body
        raise InvalidSpec(((), "null is no job specification; send one, or no body beside ?preset="))


@router.post(
    "",
    status_code=202,
    dependencies=[Depends(_json_only)],
    summary="Create a job",
    response_model=JobCreated,
    responses={200: {"model": PlanRead, "description": "what the job would take, with dry_run"}},
)
def create_job(
    project: ProjectDep,
    session: SessionDep,
    settings: SettingsDep,
    request: Request,
    quotas: QuotasDep,
    response: Response,
    preset: Annotated[
        str | Absent, Query(description="take this preset's specification; send no body then")
    ] = None,
    asked: Annotated[JobRequest | None, Body(openapi_examples=_EXAMPLES)] = None,
    dry_run: Annotated[bool, Query(description="create nothing; foretell what the job would take")] = False,
    idempotency_key: IdempotencyKey = None,
) -> JobCreated | Response:
    """Queue a meta-optimization job; poll its `Location` for progress, or have a webhook told of its end."""
    spec, preset = _asked_for(None if asked is None else asked.spec(), preset)
    webhook = _webhook(asked, settings)
    if dry_run:
        pinned = pins.pin(session, project, spec)
        groups = _groups(pinned, settings.max_parameters, quotas.hyperparameters_per_job)
        session.commit()  # a plan takes seconds, and needs no database
        return _planned(request.app.state.planner, pinned.spec, preset, groups)

    def create() -> Job:
        pinned = pins.pin(session, project, spec)
        job = jobs.create(
            session,
            project,
            pinned.spec,
            preset=preset,
            queue=settings.queue,
            groups=_groups(pinned, settings.max_parameters, quotas.hyperparameters_per_job),
            max_snapshot_bytes=settings.max_snapshot_bytes,
            limits=quotas,
        )
        if webhook is not None:
            webhooks.attach(session, job.id, *webhook)
        return job

    beside = {"webhook": asked.webhook.model_dump() if asked is not None and asked.webhook is not None else None}
    digest = idempotency.digest(spec, preset, beside)
    job, replayed = idempotency.once(session, project, idempotency_key, digest, create)
    response.headers.update(etags.headers(job) | {"Location": f"/v1/jobs/{job.id}"})
    if replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return JobCreated.read(job, webhooks.of(session, job.id))


@router.get("", summary="List jobs, newest first")
def list_jobs(
    project: ProjectDep,
    session: SessionDep,
    state: State | Absent = None,
    preset: Preset = None,
    search: Annotated[
        Annotated[str, Field(min_length=1, max_length=200)] | Absent,
        Query(description="those whose name holds this, in whatever case"),
    ] = None,
    after: Annotated[str | Absent, Query(description="`next` of the page before")] = None,
    limit: Limit = 20,
) -> JobPage:
    """One page of the project's jobs."""
    page = jobs.page(session, project, state=state, preset=preset, search=search, after=after, limit=limit)
    return JobPage(data=[JobSummary.of(job) for job in page.jobs], next=page.next)


@router.post("/cancel", status_code=202, summary="Cancel many jobs")
def cancel_jobs(
    project: ProjectDep, session: SessionDep, state: Unended | Absent = None, preset: Preset = None
) -> Cancelled:
    """Cancel all jobs of the project that have not ended: those of one state or preset, where given."""
    found, more = jobs.cancel_all(session, project, state=None if state is None else State(state), preset=preset)
    return Cancelled(data=found, more=more)


# a :uuid, so that /v1/jobs/cancel is nobody's id, and GET is not allowed there
@router.get(
    "/{job_id:uuid}",
    summary="Look at a job",
    response_model=JobRead,
    responses={304: {"description": "nothing has changed since the version that If-None-Match names"}},
)
def get_job(
    job_id: UUID,
    project: ProjectDep,
    session: SessionDep,
    response: Response,
    if_none_match: etags.KnownVersion = None,
) -> JobRead | Response:
    """State, progress, losses and certificate. `Retry-After` says when to ask again, while it has not ended."""
    job = jobs.get(session, project, job_id)
    if etags.is_among(etags.of(job), if_none_match):
        return Response(status_code=304, headers=etags.headers(job))
    return _read(session, job, response)


@router.post("/{job_id}/cancel", status_code=202, summary="Cancel a job")
def cancel_job(job_id: UUID, project: ProjectDep, session: SessionDep, response: Response) -> JobRead:
    """End a queued job at once, a running one within seconds. What it learned so far stays."""
    return _read(session, jobs.cancel(session, project, job_id), response)


@router.post("/{job_id}/pause", status_code=202, summary="Pause a job")
def pause_job(job_id: UUID, project: ProjectDep, session: SessionDep, response: Response) -> JobRead:
    """Hold a queued job at once, a running one within seconds. `resume` goes on after its last meta-iteration."""
    return _read(session, jobs.pause(session, project, job_id), response)


@router.post("/{job_id}/resume", status_code=202, summary="Resume a job")
def resume_job(
    job_id: UUID, project: ProjectDep, session: SessionDep, quotas: QuotasDep, response: Response
) -> JobRead:
    """Queue a paused job again."""
    return _read(session, jobs.resume(session, project, job_id, quotas), response)


@router.post("/{job_id}/retry", status_code=202, summary="Retry a job")
def retry_job(
    job_id: UUID, project: ProjectDep, session: SessionDep, quotas: QuotasDep, response: Response
) -> JobRead:
    """Queue a failed or cancelled job again; it goes on after its last finished meta-iteration."""
    return _read(session, jobs.retry(session, project, job_id, quotas), response)


@router.delete("/{job_id:uuid}", status_code=204, summary="Delete a job")
def delete_job(job_id: UUID, project: ProjectDep, session: SessionDep) -> None:
    """Delete an ended job and all that it learned."""
    jobs.remove(session, project, job_id)


@router.get("/{job_id}/iterations", summary="List meta-iterations")
def list_iterations(
    job_id: UUID,
    project: ProjectDep,
    session: SessionDep,
    after: Annotated[
        Annotated[int, Field(ge=0, lt=2**31)] | Absent, Query(description="the last meta-iteration already known")
    ] = None,
    limit: Limit = 100,
) -> IterationPage:
    """Losses, hypergradient norm, seconds, certificate and diagnostics of each meta-iteration, in order."""
    job = jobs.get(session, project, job_id)
    rows = iterations.page(session, job.id, after=after, limit=limit)
    return IterationPage(
        data=[IterationRead.of(row) for row in rows], next=rows[-1].iteration if len(rows) == limit else None
    )


@router.get("/{job_id}/trials", summary="List trials of the search")
def list_trials(job_id: UUID, project: ProjectDep, session: SessionDep) -> TrialList:
    """Training runs that a warm start tried before the descent, in order."""
    job = jobs.get(session, project, job_id)
    _, layouts = jobs.layouts_for(job)
    return TrialList(
        data=[
            TrialRead(
                number=trial.number,
                values={name: float(layouts[name].natural(value)) for name, value in trial.values.items()},
                outer_loss=trial.outer_loss,
            )
            for trial in trials.read(session, job.id)
        ]
    )


def _asked_for(spec: JobSpec | None, preset: str | None) -> tuple[JobSpec, str | None]:
    """The specification, and the preset that it is."""
    if preset is None:
        if spec is None:
            raise InvalidSpec(((), "no body; send a job specification, or name a preset with ?preset="))
        _check_text(spec)
        return spec, next((name for name in presets.names() if presets.get(name).sha256() == spec.sha256()), None)
    if spec is not None:
        raise InvalidParameter("preset", "there is a body as well; send one or the other")
    try:
        return presets.get(preset), preset
    except presets.UnknownPreset as error:
        raise InvalidParameter("preset", str(error)) from error


def _check_text(spec: JobSpec) -> None:
    if "\0" in spec.name:
        raise InvalidSpec((("name",), "holds a NUL character, which cannot be kept; remove it"))


def _groups(pinned: Pinned, max_parameters: int, max_hyperparameters: int) -> tuple[Group, ...]:
    """The job's parameter groups, once data, model and hyperparameters are known to be in bounds."""
    spec = pinned.spec
    groups = groups_for(spec, pinned.uploaded, pinned.own)
    parameters = sum(group.size for group in groups)
    if parameters > max_parameters:
        where = ("problem", _which(spec)) if spec.own is not None else ("problem", "model", "hidden")
        raise InvalidSpec(
            (
                where,
                f"a model of {parameters} parameters, more than {max_parameters}; "
                f"{'make it smaller' if spec.own is not None else 'use fewer or narrower layers'}",
            )
        )
    layouts = layouts_of(spec, groups)
    for name, layout in layouts.items():
        if layout.size > max_hyperparameters:
            raise InvalidSpec(
                (
                    ("problem", _which(spec)) if spec.own is not None else ("hyperparameters", name),
                    f"{layout.size} values{_of(name, spec)}, more than {max_hyperparameters}; "
                    f"{_FEWER if spec.own is None else 'have the problem ask for fewer'}",
                )
            )
    learned = count_learned(layouts)
    if learned * spec.meta.seeds_per_iteration > max_hyperparameters * _MOST_HYPERGRADIENTS:
        raise InvalidSpec(
            (
                ("meta", "seeds_per_iteration"),
                f"{spec.meta.seeds_per_iteration} hypergradients of {learned} values each do not fit into memory "
                "together; use fewer seeds",
            )
        )
    if learned > max_hyperparameters:
        raise InvalidSpec(
            (
                ("problem", "learn") if spec.own is not None else ("hyperparameters",),
                f"{learned} values to learn, more than {max_hyperparameters}; learn fewer"
                f"{', or let them differ along fewer axes (per)' if spec.own is None else ''}",
            )
        )
    return groups


def _of(name: str, spec: JobSpec) -> str:
    """Whose values, where the place of the error does not say so."""
    return f" of {name}" if spec.own is not None else ""


def _which(spec: JobSpec) -> str:
    """The field that names the problem of one's own."""
    return "settings" if spec.plugin is not None else "id"


def _planned(planner: Planner, spec: JobSpec, preset: str | None, groups: tuple[Group, ...]) -> Response:
    known = {
        "preset": preset,
        "spec_sha256": spec.sha256(),
        "num_hyperparameters": count_learned(layouts_of(spec, groups)),
        "num_iterations": spec.num_iterations,
    }
    plan = PlanRead.model_validate(known | planner.plan(spec))
    return JSONResponse(plan.model_dump(mode="json"))


def _webhook(asked: JobRequest | None, settings: Settings) -> tuple[str, str] | None:
    """URL and secret of the webhook that is asked for."""
    if asked is None or asked.webhook is None:
        return None
    try:
        url = receivers.checked_url(asked.webhook.url, allow_private=settings.webhook_allow_private)
    except ValueError as error:
        raise InvalidSpec((("webhook", "url"), str(error))) from error
    return url, asked.webhook.secret or receivers.new_secret()


def _read(session: Session, job: Job, response: Response) -> JobRead:
    response.headers.update(etags.headers(job))
    return JobRead.read(job, webhooks.of(session, job.id))
