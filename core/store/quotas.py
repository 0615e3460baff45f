"""What a project may have, what it has, and who waits because of that.

A project's tally is kept by the database's triggers. A transaction first changes something, then compares: one that
exceeds a quota raises, and is undone. Where a quota is not far, transactions of its project do so one after the other,
so that it is exact, however many ask at once.
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
from sqlalchemy import BigInteger, ColumnElement, Date, cast, func, select, update
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
    """What the project has and has used; of device seconds, up to the last heartbeats."""
    columns = (Tally.queued_jobs, Tally.running_jobs, Tally.stored_bytes)
    today = select(Usage.device_seconds).where(Usage.project_id == project_id, Usage.day == _today())
    row = session.execute(
        select(
            *(cast(func.coalesce(func.sum(column), 0), BigInteger) for column in columns),
            func.coalesce(today.scalar_subquery(), 0.0),
        ).where(Tally.project_id == project_id)
    ).one()
    return Used._make(row)


def check(session: Session, project_id: UUID, quotas: Quotas, *, queued: int = 0, added_bytes: int = 0) -> None:
    """See that the project may have the jobs that this transaction has queued, and the bytes that it has added.

    The last thing before its end: near a quota, all others wait until then.

    Raises:
        QuotaExceeded: it has too many; or, for jobs, its time on devices is used up for today.
    """
    savepoint = session.begin_nested()  # gives the lock back where it does not do
    _take_turns(session, project_id, "queue", shared=True)
    now = used(session, project_id)
    far = _is_far(quotas.queued_jobs, now.queued_jobs, queued)
    if far and _is_far(quotas.stored_bytes, now.stored_bytes, added_bytes):
        savepoint.commit()
    else:
        savepoint.rollback()
        _take_turns(session, project_id, "queue", shared=False)
        now = used(session, project_id)
    if queued and now.queued_jobs > quotas.queued_jobs:
        before = now.queued_jobs - queued
        raise QuotaExceeded("queued_jobs", quotas.queued_jobs, before, retry_after=_QUEUE_RETRY_SECONDS)
    if queued and now.device_seconds_per_day >= quotas.device_seconds_per_day:
        limit, seconds = quotas.device_seconds_per_day, round(now.device_seconds_per_day)
        raise QuotaExceeded("device_seconds_per_day", limit, seconds, retry_after=_seconds_to_midnight(session))
    if added_bytes and now.stored_bytes > quotas.stored_bytes:
        before = now.stored_bytes - added_bytes
        raise QuotaExceeded("stored_bytes", quotas.stored_bytes, before, needed=added_bytes)


def check_room(session: Session, project_id: UUID, quotas: Quotas, added_bytes: int) -> None:
    """See, before they are stored, that there is room for bytes. Others may take it meanwhile: `check` afterwards.

    Raises:
        QuotaExceeded: there is none.
    """
    now = used(session, project_id)
    if now.stored_bytes + added_bytes > quotas.stored_bytes:
        raise QuotaExceeded("stored_bytes", quotas.stored_bytes, now.stored_bytes, needed=added_bytes)


def may_run(session: Session, project_id: UUID, queue: str, created_at: datetime, quotas: Quotas) -> bool:
    """Whether one more job of the project may run. Until the end of this transaction no other one is told so.

    Not before jobs that are held back and older: they would never have their turn.
    """
    _take_turns(session, project_id, "run", shared=False)
    now = used(session, project_id)
    if now.running_jobs >= quotas.running_jobs or now.device_seconds_per_day >= quotas.device_seconds_per_day:
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


def _take_turns(session: Session, project_id: UUID, what: str, *, shared: bool) -> None:
    """Wait for the project's other transactions that asked for this; for those that share it, only if not `shared`."""
    lock = func.pg_advisory_xact_lock_shared if shared else func.pg_advisory_xact_lock
    session.execute(select(lock(func.hashtextextended(f"{what} {project_id}", 0))))


def _is_far(limit: int, used: int, added: int) -> bool:
    """Whether a thousand transactions like this one, more than a server has connections, would not reach the limit."""
    return used <= limit // 2 and added * 1000 <= limit // 2


def _days(since: datetime, until: datetime) -> Iterable[tuple[date, float]]:
    """Days in UTC, in order, with the seconds of each between two moments; none when the clock went back."""
    since, until = since.astimezone(UTC), until.astimezone(UTC)
    while since < until:
        end = min(_midnight_after(since), until)
        yield since.date(), (end - since).total_seconds()
        since = end


def _midnight_after(moment: datetime) -> datetime:
    return datetime.combine(moment.astimezone(UTC).date() + timedelta(days=1), time(), UTC)


def _seconds_to_midnight(session: Session) -> int:
    now = session.execute(select(func.clock_timestamp())).scalar_one()
    return int((_midnight_after(now) - now).total_seconds()) + 1


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
