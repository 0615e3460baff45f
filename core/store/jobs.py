"""What a client may do to a job. Each change of state is one conditional UPDATE."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Update, case, delete, func, select, tuple_, update
from sqlalchemy.orm import Session

from core.hyperparameters import Group, Layout, count_learned, layouts_of
from core.spec import JobSpec
from core.store import outbox
from core.store.arrays import as_json
from core.store.errors import InvalidCursor, StateConflict, UnknownJob
from core.store.models import ENDED, Job, State

_BYTES_PER_VALUE = 8


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
) -> Job:
    """Queue a job."""
    num_hyperparameters = count_learned(layouts_of(spec, groups))
    num_iterations = spec.num_iterations
    snapshot_bytes = num_hyperparameters * _BYTES_PER_VALUE * (num_iterations + 1)
    job = Job(
        project_id=project_id,
        name=spec.name,
        preset=preset,
        spec=as_json(spec.model_dump(mode="json")),
        spec_sha256=spec.sha256(),
        queue=queue,
        groups=[{"name": group.name, "shape": list(group.shape)} for group in groups],
        num_hyperparameters=num_hyperparameters,
        num_iterations=num_iterations,
        keeps_every_iteration=snapshot_bytes <= max_snapshot_bytes,
    )
    session.add(job)
    session.flush()
    outbox.add(session, job.id, queue)
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
    after: str | None = None,
    limit: int = 20,
) -> Page:
    """Jobs of the project, newest first, from the cursor `after` on."""
    query = select(Job).where(Job.project_id == project_id)
    if state is not None:
        query = query.where(Job.state == state)
    if preset is not None:
        query = query.where(Job.preset == preset)
    if after is not None:
        query = query.where(tuple_(Job.created_at, Job.id) < tuple_(*_place(after)))
    query = query.order_by(Job.created_at.desc(), Job.id.desc()).limit(limit + 1)
    found = session.scalars(query).all()
    more = len(found) > limit
    return Page(found[:limit], _cursor(found[limit - 1]) if more else None)


def cancel(session: Session, project_id: UUID, job_id: UUID) -> Job:
    """End a queued job at once; have the worker of a running one end it."""
    queued = Job.state == State.QUEUED
    return _change(
        session,
        project_id,
        job_id,
        update(Job)
        .where(Job.state.in_((State.QUEUED, State.RUNNING)))
        .values(
            cancel_requested=True,
            state=case((queued, State.CANCELLED), else_=Job.state),
            ended_at=case((queued, func.clock_timestamp()), else_=None),
        ),
        action="cancelled",
        allowed="queued or running",
    )


def retry(session: Session, project_id: UUID, job_id: UUID) -> Job:
    """Queue a failed or cancelled job again; it goes on from its checkpoint if it has one."""
    job = _change(
        session,
        project_id,
        job_id,
        update(Job)
        .where(Job.state.in_((State.FAILED, State.CANCELLED)))
        .values(
            state=State.QUEUED,
            cancel_requested=False,
            error=None,
            ended_at=None,
            attempts_without_progress=0,
            published_at=func.clock_timestamp(),
        ),
        action="retried",
        allowed="failed or cancelled",
    )
    outbox.add(session, job.id, job.queue)
    return job


def remove(session: Session, project_id: UUID, job_id: UUID) -> None:
    """Delete an ended job and all that it learned."""
    gone = session.execute(
        delete(Job).where(*_is(project_id, job_id), Job.state.in_(ENDED)).returning(Job.id)
    ).one_or_none()
    if gone is None:
        job = get(session, project_id, job_id)
        raise StateConflict("deleted", job.state, "succeeded, failed or cancelled; cancel it first")


def _change(
    session: Session, project_id: UUID, job_id: UUID, statement: Update, *, action: str, allowed: str
) -> Job:
    changed = session.execute(statement.where(*_is(project_id, job_id)).returning(Job.id)).one_or_none()
    job = get(session, project_id, job_id)
    if changed is None:
        raise StateConflict(action, job.state, allowed)
    return job


def _is(project_id: UUID, job_id: UUID) -> tuple[Any, Any]:
    return Job.id == job_id, Job.project_id == project_id


def _cursor(job: Job) -> str:
    return base64.urlsafe_b64encode(f"{job.created_at.isoformat()} {job.id}".encode()).decode().rstrip("=")


def _place(cursor: str) -> tuple[datetime, UUID]:
    try:
        decoded = base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)).decode()
        created_at, _, job_id = decoded.partition(" ")
        place = datetime.fromisoformat(created_at), UUID(job_id)
    except (ValueError, binascii.Error) as error:
        raise InvalidCursor from error
    if place[0].tzinfo is None:
        raise InvalidCursor
    return place
