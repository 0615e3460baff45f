"""What a project may have, what it has, and who waits because of that.

A project's tally is kept by the database's triggers. A transaction that has changed it has its row locked, so that what
is compared here is exact, however many ask at once; one that exceeds a quota raises, and is undone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Date, cast, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.quotas import Quotas
from core.store import outbox
from core.store.errors import QuotaExceeded
from core.store.models import Job, Project, State, Tally, Usage

log = logging.getLogger(__name__)

_QUEUE_RETRY_SECONDS = 30
_WOKEN_AT_ONCE = 100


class Used(NamedTuple):
    """What a project has now, and has used since midnight UTC."""

    queued_jobs: int
    running_jobs: int
    stored_bytes: int
    device_seconds_per_day: float


def of(session: Session, project_id: UUID, defaults: Quotas) -> Quotas:
    """The project's quotas: the defaults, but for those that its row names."""
    own = session.scalar(select(Project.quotas).where(Project.id == project_id))
    return defaults if not own else _merged(defaults, json.dumps(own, sort_keys=True))


def set_own(session: Session, project_id: UUID, changes: dict[str, int | None], defaults: Quotas) -> None:
    """Give a project quotas of its own; None takes one back.

    Raises:
        ValidationError: there is no such quota, or it is no whole number of at least 0.
    """
    own = session.scalar(select(Project.quotas).where(Project.id == project_id).with_for_update(key_share=True))
    kept = {name: limit for name, limit in ((own or {}) | changes).items() if limit is not None}
    Quotas.model_validate(defaults.model_dump() | kept)
    session.execute(update(Project).where(Project.id == project_id).values(quotas=kept or None))


def used(session: Session, project_id: UUID) -> Used:
    """What the project has and has used."""
    row = session.execute(
        select(Tally.queued_jobs, Tally.running_jobs, Tally.stored_bytes).where(Tally.project_id == project_id)
    ).one_or_none()
    return Used(*(row or (0, 0, 0)), used_today(session, project_id))


def used_today(session: Session, project_id: UUID) -> float:
    """Seconds on devices since midnight UTC, but for those since the last heartbeats."""
    today = select(Usage.device_seconds).where(Usage.project_id == project_id, Usage.day == _today())
    return session.scalar(today) or 0.0


def check_queue(session: Session, project_id: UUID, quotas: Quotas) -> None:
    """See that the project may have the job that this transaction has queued.

    Raises:
        QuotaExceeded: it has too many, or its time on devices is used up for today.
    """
    queued = session.scalar(select(Tally.queued_jobs).where(Tally.project_id == project_id)) or 0
    if queued > quotas.queued_jobs:
        raise QuotaExceeded("queued_jobs", quotas.queued_jobs, queued - 1, retry_after=_QUEUE_RETRY_SECONDS)
    seconds = used_today(session, project_id)
    if seconds >= quotas.device_seconds_per_day:
        now = session.execute(select(func.clock_timestamp())).scalar_one()
        left = (_midnight_after(now) - now).total_seconds()
        limit = quotas.device_seconds_per_day
        raise QuotaExceeded("device_seconds_per_day", limit, round(seconds), retry_after=int(left) + 1)


def check_storage(session: Session, project_id: UUID, quotas: Quotas, added: int) -> None:
    """See that the project may have the bytes that this transaction has added.

    Raises:
        QuotaExceeded: it has too many.
    """
    stored = session.scalar(select(Tally.stored_bytes).where(Tally.project_id == project_id)) or 0
    if stored > quotas.stored_bytes:
        raise QuotaExceeded("stored_bytes", quotas.stored_bytes, stored - added, needed=added)


def may_run(session: Session, project_id: UUID, queue: str, created_at: datetime, quotas: Quotas) -> bool:
    """Whether the job that this transaction has set running may be, by its project's quotas.

    Not before those of its project that are held back and older: they would never have their turn.
    """
    running = session.scalar(select(Tally.running_jobs).where(Tally.project_id == project_id)) or 0
    if running > quotas.running_jobs or used_today(session, project_id) >= quotas.device_seconds_per_day:
        return False
    older = select(Job.id).where(*_waiting(project_id, queue, held=True), Job.created_at < created_at)
    return session.scalar(older.limit(1)) is None


def hold(session: Session, job_id: UUID) -> bool:
    """Put a queued job aside, until `wake`: no message is sent for it meanwhile. False when it is queued no more."""
    found = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.state == State.QUEUED, ~Job.held)
        .values(held=True)
        .returning(Job.id)
    )
    return found.one_or_none() is not None


def holding(session: Session) -> list[tuple[UUID, str]]:
    """Projects and queues with jobs that were put aside."""
    rows = session.execute(
        select(Job.project_id, Job.queue)
        .where(Job.state == State.QUEUED, Job.held)
        .distinct()
        .order_by(Job.project_id)
    )
    return [(row.project_id, row.queue) for row in rows]


def wake(session: Session, project_id: UUID, queue: str, defaults: Quotas) -> int:
    """Wake the oldest jobs of a project that were put aside, as many as may run now; returns how many.

    Those already on their way to a worker have a claim to that room first.
    """
    quotas, now = of(session, project_id, defaults), used(session, project_id)
    if now.device_seconds_per_day >= quotas.device_seconds_per_day:
        return 0
    room = min(quotas.running_jobs - now.running_jobs, _WOKEN_AT_ONCE)
    if room <= 0:
        return 0
    coming = select(Job.id).where(*_waiting(project_id, queue, held=False)).limit(room)
    room -= session.execute(select(func.count()).select_from(coming.subquery())).scalar_one()
    oldest = (
        select(Job.id)
        .where(*_waiting(project_id, queue, held=True))
        .order_by(Job.created_at)
        .limit(max(room, 0))
        .with_for_update(skip_locked=True)
    )
    woken = session.scalars(
        update(Job)
        .where(Job.id.in_(oldest))
        .values(held=False, published_at=func.clock_timestamp())
        .returning(Job.id)
    ).all()
    for job_id in woken:
        outbox.add(session, job_id, queue)
    return len(woken)


def charge(session: Session, project_id: UUID, since: datetime | None, until: datetime) -> None:
    """Count a job's time on a device, on the days on which it was."""
    for day, seconds in _days(since or until, until):
        row = insert(Usage).values(project_id=project_id, day=day, device_seconds=seconds)
        session.execute(
            row.on_conflict_do_update(
                index_elements=[Usage.project_id, Usage.day],
                set_={"device_seconds": Usage.device_seconds + row.excluded.device_seconds},
            )
        )


def _days(since: datetime, until: datetime) -> Iterable[tuple[date, float]]:
    """Days in UTC, in order, with the seconds of each between two moments; none when the clock went back."""
    since, until = since.astimezone(UTC), until.astimezone(UTC)
    while since < until:
        end = min(_midnight_after(since), until)
        yield since.date(), (end - since).total_seconds()
        since = end


def _midnight_after(moment: datetime) -> datetime:
    return datetime.combine(moment.astimezone(UTC).date() + timedelta(days=1), time(), UTC)


def _today() -> ColumnElement[date]:
    return cast(func.timezone("UTC", func.clock_timestamp()), Date)


def _waiting(project_id: UUID, queue: str, *, held: bool) -> tuple[ColumnElement[bool], ...]:
    return (
        Job.project_id == project_id,
        Job.queue == queue,
        Job.state == State.QUEUED,
        Job.held.is_(held),
    )


@lru_cache(maxsize=1024)
def _merged(defaults: Quotas, own: str) -> Quotas:
    """The defaults with a project's own; what an operator has written wrongly there is logged, once, and left out."""
    quotas = defaults
    for name, limit in json.loads(own).items():
        try:
            quotas = Quotas.model_validate(quotas.model_dump() | {name: limit})
        except ValidationError as error:
            log.error(
                "a project's quotas hold %s=%r, which is left out: %s", name, limit, error.errors()[0]["msg"]
            )
    return quotas
