"""What a client may do to a job. Each change of state is one conditional UPDATE."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Update, case, delete, func, select, tuple_, update
from sqlalchemy.orm import Session, defer

from core.hyperparameters import Group, Layout, count_learned, layouts_of
from core.quotas import Quotas
from core.spec import JobSpec
from core.store import cursors, events, outbox, quotas
from core.store.arrays import as_json
from core.store.errors import InvalidCursor, StateConflict, UnknownJob
from core.store.events import Kind
from core.store.models import ENDED, UNENDED, Job, JobData, State

_BYTES_PER_VALUE = 8
_KEPT_ITERATIONS = 3  # initial, best and last, where not all are kept
_CHECKPOINT_COPIES = 2  # of the values, that an outer optimizer's state holds at most
_MOST_AT_ONCE = 500
_LISTED = [  # most of a row's bytes, which no list shows
    defer(column, raiseload=True) for column in (Job.spec, Job.groups, Job.losses, Job.certificate, Job.provenance)
]


class Page(NamedTuple):
    """Jobs, newest first."""

    jobs: Sequence[Job]
    next: str | None  # cursor of the page after, None at the end


def layouts_for(job: Job) -> tuple[tuple[Group, ...], dict[str, Layout]]:
    """Parameter groups and hyperparameters of a job, from its row alone: its data may be gone."""
    groups = tuple(Group(group["name"], tuple(group["shape"])) for group in job.groups)
    return groups, layouts_of(JobSpec.model_validate(job.spec), groups)


def create(
    session: Session,
    project_id: UUID,
    spec: JobSpec,
    *,
    preset: str | None,
    queue: str,
    groups: tuple[Group, ...],
    max_snapshot_bytes: int,
    limits: Quotas | None = None,
) -> Job:
    """Queue a job.

    Raises:
        QuotaExceeded: it would exceed its project's limits.
    """
    num_hyperparameters = count_learned(layouts_of(spec, groups))
    num_iterations = spec.num_iterations
    value_bytes = num_hyperparameters * _BYTES_PER_VALUE
    keeps_every_iteration = value_bytes * (num_iterations + 1) <= max_snapshot_bytes
    kept = num_iterations + 1 if keeps_every_iteration else _KEPT_ITERATIONS
    job = Job(
        project_id=project_id,
        name=spec.name,
        preset=preset,
        spec=as_json(spec.model_dump(mode="json")),
        spec_sha256=spec.sha256(),
        dataset_id=None if spec.uploaded is None else spec.uploaded.id,
        program_id=None if spec.program is None else spec.program.id,
        queue=queue,
        groups=[{"name": group.name, "shape": list(group.shape)} for group in groups],
        num_hyperparameters=num_hyperparameters,
        num_iterations=num_iterations,
        keeps_every_iteration=keeps_every_iteration,
        stored_bytes=value_bytes * (kept + _CHECKPOINT_COPIES),
    )
    session.add(job)
    session.flush()
    if spec.own is not None:
        session.add_all(JobData(job_id=job.id, name=name, dataset_id=one) for name, one in spec.own.data.items())
    outbox.add(session, job.id, queue)
    events.record(session, job.id, Kind.CREATED)
    session.refresh(job)
    if limits is not None:
        quotas.check(session, project_id, limits, queued=1, added_bytes=job.stored_bytes)
    return job


def get(session: Session, project_id: UUID, job_id: UUID) -> Job:
    """A job of the project.

    Raises:
        UnknownJob: the project has none of this id.
    """
    job = session.scalars(
        select(Job).where(*_is(project_id, job_id)).execution_options(populate_existing=True)
    ).one_or_none()
    if job is None:
        raise UnknownJob(job_id)
    return job


def page(
    session: Session,
    project_id: UUID,
    *,
    state: State | None = None,
    preset: str | None = None,
    search: str | None = None,
    after: str | None = None,
    limit: int = 20,
) -> Page:
    """Jobs of the project, newest first, from the cursor `after` on; those whose name holds `search`, if given."""
    if search is not None and "\0" in search:
        return Page([], None)  # no text of Postgres holds one
    wanted = [Job.project_id == project_id]
    if state is not None:
        wanted.append(Job.state == state)
    if preset is not None:
        wanted.append(Job.preset == preset)
    if after is not None:
        wanted.append(tuple_(Job.created_at, Job.id) < tuple_(*_place(after)))
    newest = Job.created_at.desc(), Job.id.desc()
    query = select(Job).options(*_LISTED).order_by(*newest).limit(limit + 1)
    if search is None:
        query = query.where(*wanted)
    else:  # found in an index that holds what is asked of them: most rows of a project may be looked through
        wanted.append(Job.name.icontains(search, autoescape=True))
        query = query.where(Job.id.in_(select(Job.id).where(*wanted).order_by(*newest).limit(limit + 1)))
    found = session.scalars(query).all()
    more = len(found) > limit
    return Page(found[:limit], cursors.encode(found[limit - 1].created_at, found[limit - 1].id) if more else None)


def cancel(session: Session, project_id: UUID, job_id: UUID) -> Job:
    """End a waiting job at once; have the worker of a running one end it. A second time changes nothing."""
    waiting = Job.state.in_((State.QUEUED, State.PAUSED))
    return _change(
        session,
        project_id,
        job_id,
        update(Job)
        .where(Job.state.in_(UNENDED))
        .values(
            cancel_requested=True,
            state=case((waiting, State.CANCELLED), else_=Job.state),
            ended_at=case((waiting, func.clock_timestamp()), else_=None),
        ),
        unless=Job.cancel_requested,
        action="cancelled",
        allowed="queued, running or paused",
        kinds={State.CANCELLED: Kind.CANCELLED, State.RUNNING: Kind.CANCEL_REQUESTED},
    )


def pause(session: Session, project_id: UUID, job_id: UUID) -> Job:
    """Hold a queued job at once; have the worker of a running one put it by. A second time changes nothing."""
    queued = Job.state == State.QUEUED
    return _change(
        session,
        project_id,
        job_id,
        update(Job)
        .where(Job.state.in_((State.QUEUED, State.RUNNING)), ~Job.cancel_requested)
        .values(pause_requested=Job.state == State.RUNNING, state=case((queued, State.PAUSED), else_=Job.state)),
        unless=Job.pause_requested | (Job.state == State.PAUSED),
        action="paused",
        allowed="queued or running, and not to be cancelled",
        kinds={State.PAUSED: Kind.PAUSED, State.RUNNING: Kind.PAUSE_REQUESTED},
    )


def resume(session: Session, project_id: UUID, job_id: UUID, limits: Quotas | None = None) -> Job:
    """Queue a paused job again, or let a running one that was to be paused go on. It continues from its checkpoint.

    Raises:
        QuotaExceeded: no more jobs of the project may be queued.
    """
    paused = Job.state == State.PAUSED
    job = _change(
        session,
        project_id,
        job_id,
        update(Job)
        .where(paused | Job.pause_requested)
        .values(
            pause_requested=False,
            held=False,
            state=case((paused, State.QUEUED), else_=Job.state),
            published_at=case((paused, func.clock_timestamp()), else_=Job.published_at),
        ),
        action="resumed",
        allowed="paused",
        kinds={State.QUEUED: Kind.RESUMED, State.RUNNING: Kind.RESUMED},
    )
    if job.state == State.QUEUED:
        outbox.add(session, job.id, job.queue)
        if limits is not None:
            quotas.check(session, project_id, limits, queued=1)
    return job


def retry(session: Session, project_id: UUID, job_id: UUID, limits: Quotas | None = None) -> Job:
    """Queue a failed or cancelled job again; it goes on from its checkpoint if it has one.

    Raises:
        QuotaExceeded: no more jobs of the project may be queued.
    """
    job = _change(
        session,
        project_id,
        job_id,
        update(Job)
        .where(Job.state.in_((State.FAILED, State.CANCELLED)))
        .values(
            state=State.QUEUED,
            held=False,
            cancel_requested=False,
            pause_requested=False,
            error=None,
            ended_at=None,
            attempts_without_progress=0,
            published_at=func.clock_timestamp(),
        ),
        action="retried",
        allowed="failed or cancelled",
        kinds={State.QUEUED: Kind.RETRIED},
    )
    outbox.add(session, job.id, job.queue)
    if limits is not None:
        quotas.check(session, project_id, limits, queued=1)
    return job


def cancel_all(
    session: Session, project_id: UUID, *, state: State | None = None, preset: str | None = None
) -> tuple[list[UUID], bool]:
    """Cancel jobs of the project that have not ended, of one state or preset if given.

    Returns the ids of at most 500, and whether there are more: no transaction may hold all jobs of a large project.
    """
    query = select(Job.id).where(Job.project_id == project_id, Job.state.in_(UNENDED), ~Job.cancel_requested)
    if state is not None:
        query = query.where(Job.state == state)
    if preset is not None:
        query = query.where(Job.preset == preset)
    # in one order, or two calls could deadlock
    found = session.scalars(query.order_by(Job.id).limit(_MOST_AT_ONCE + 1).with_for_update()).all()
    for job_id in found[:_MOST_AT_ONCE]:
        cancel(session, project_id, job_id)
    return list(found[:_MOST_AT_ONCE]), len(found) > _MOST_AT_ONCE


def remove(session: Session, project_id: UUID, job_id: UUID) -> None:
    """Delete an ended job and all that it learned."""
    gone = session.execute(
        delete(Job).where(*_is(project_id, job_id), Job.state.in_(ENDED)).returning(Job.id)
    ).one_or_none()
    if gone is None:
        job = get(session, project_id, job_id)
        raise StateConflict("deleted", job.state, "succeeded, failed or cancelled; cancel it first")


def _change(
    session: Session,
    project_id: UUID,
    job_id: UUID,
    statement: Update,
    *,
    action: str,
    allowed: str,
    kinds: dict[State, Kind],  # of event, by the state after
    unless: Any = None,  # a condition
) -> Job:
    """The job after the change; as it is, where `unless` says that it has been changed already."""
    where = (*_is(project_id, job_id), *(() if unless is None else (~unless,)))
    changed = session.execute(statement.where(*where).returning(Job.state)).one_or_none()
    if changed is not None:
        events.record(session, job_id, kinds[changed.state])
        return get(session, project_id, job_id)
    job = get(session, project_id, job_id)
    already = None if unless is None else session.scalar(select(Job.id).where(*_is(project_id, job_id), unless))
    if already is None or job.state in ENDED:
        raise StateConflict(action, job.state, allowed)
    return job


def _is(project_id: UUID, job_id: UUID) -> tuple[Any, Any]:
    return Job.id == job_id, Job.project_id == project_id


def _place(cursor: str) -> tuple[datetime, UUID]:
    created_at, job_id = cursors.decode(cursor)
    try:
        return created_at, UUID(job_id)
    except ValueError as error:
        raise InvalidCursor from error
