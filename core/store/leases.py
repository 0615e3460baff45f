"""What a worker may do to a job. Only the holder of the current lease epoch writes; others are `Fenced`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
from sqlalchemy import ColumnElement, case, func, literal, select, update
from sqlalchemy.orm import Session

from core.errors import CoreError
from core.quotas import Quotas
from core.records import Checkpoint, Evaluation, Losses, MetaRecord, Trial, Values
from core.spec import JobSpec
from core.store import certificates, events, iterations, learned, measured, outbox, quotas, trials
from core.store.arrays import as_json
from core.store.errors import Fenced, WorkerLost
from core.store.events import Kind
from core.store.models import Job, State

STARTS = ("initial", "searched")
_RETURNED = (
    Job.state,
    Job.queue,
    Job.cancel_requested,
    Job.pause_requested,
    Job.keeps_every_iteration,
    Job.certificate,
)
_RECENT = 0.3  # weight of the newest iteration in seconds_per_iteration: the first one also compiles


@dataclass(frozen=True)
class Lease:
    """The right to write a job's progress, until the epoch moves on."""

    job_id: UUID
    epoch: int
    attempt: int
    seconds_before: float = 0.0  # on devices, in earlier attempts


class Wish(Enum):
    """What a job's owner wants of its worker."""

    GO_ON = auto()
    PAUSE = auto()
    CANCEL = auto()


class Work(NamedTuple):
    """A job as far as it has come."""

    spec: JobSpec
    starts: dict[
        str, Evaluation | None
    ]  # `initial` and `searched`, on the evaluation seeds; empty before `save_start`
    checkpoint: Checkpoint | None  # None before the first meta-iteration is done
    trials: list[Trial]  # of the search before the descent


def claim(session: Session, job_id: UUID, seconds: float, defaults: Quotas | None = None) -> Lease | None:
    """Take a queued job for `seconds`. None when there is no such job waiting.

    Nor where its project's quotas do not let it run now (None: there are none): it is then held back, until the
    janitor finds room for it.
    """
    if defaults is not None and not _may_run(session, job_id, defaults):
        return None
    row = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.state == State.QUEUED)
        .values(
            state=State.RUNNING,
            held=False,
            attempt=Job.attempt + 1,
            attempts_without_progress=Job.attempts_without_progress + 1,
            lease_epoch=Job.lease_epoch + 1,
            lease_expires_at=func.clock_timestamp() + timedelta(seconds=seconds),
            started_at=func.coalesce(Job.started_at, func.clock_timestamp()),
            accounted_at=func.clock_timestamp(),
        )
        .returning(Job.lease_epoch, Job.attempt, Job.device_seconds)
    ).one_or_none()
    if row is None:
        return None
    events.record(session, job_id, Kind.STARTED, attempt=row.attempt)
    return Lease(job_id, row.lease_epoch, row.attempt, row.device_seconds)


def _may_run(session: Session, job_id: UUID, defaults: Quotas) -> bool:
    """Whether the job's project has room for it; it is held back where there is none."""
    job = session.execute(
        select(Job.project_id, Job.queue, Job.created_at).where(Job.id == job_id, Job.state == State.QUEUED)
    ).one_or_none()
    if job is None:
        return False
    limits = quotas.of(session, job.project_id, defaults)
    if quotas.may_run(session, job.project_id, job.queue, job.created_at, limits):
        return True
    if quotas.hold(session, job_id):
        events.record(session, job_id, Kind.HELD)
    return False


def renew(session: Session, lease: Lease, seconds: float) -> Wish:
    """Hold the job for `seconds` more; returns what its owner wants."""
    until = func.clock_timestamp() + timedelta(seconds=seconds)
    return _wish(_account(session, lease, lease_expires_at=until))


def work(session: Session, lease: Lease) -> Work:
    """What the holder of the lease has to do."""
    row = session.execute(select(Job.spec, Job.losses).where(Job.id == lease.job_id)).one()
    return Work(
        spec=JobSpec.model_validate(row.spec),
        starts={name: _evaluation(row.losses[name]) for name in STARTS if name in row.losses},
        checkpoint=learned.load_checkpoint(session, lease.job_id),
        trials=trials.read(session, lease.job_id),
    )


def save_start(
    session: Session,
    lease: Lease,
    values: Values,
    evaluations: dict[str, Evaluation | None],
    provenance: dict[str, Any],
) -> None:
    """Keep where the descent starts, the losses of the start on the evaluation seeds, and where results come from."""
    device = provenance.get("device")
    _write(
        session,
        lease,
        losses=_all_as_json(evaluations),
        provenance=as_json(provenance),
        device=None if device is None else str(device),
        last_progress_at=func.clock_timestamp(),
    )
    learned.save_values(session, lease.job_id, 0, values)
    events.record(session, lease.job_id, Kind.BEGUN, device=device)


def save_trial(session: Session, lease: Lease, trial: Trial) -> Wish:
    """Keep a trial of the search; returns what the job's owner wants."""
    job = _write(session, lease, attempts_without_progress=0)
    if trials.save(session, lease.job_id, trial):  # what shows changes with an event only
        _write(session, lease, last_progress_at=func.clock_timestamp())
        events.record(session, lease.job_id, Kind.TRIAL, number=trial.number, outer_loss=trial.outer_loss)
    return _wish(job)


def save_iteration(session: Session, lease: Lease, record: MetaRecord) -> Wish:
    """Keep a meta-iteration, the values after it and the checkpoint; returns what the job's owner wants."""
    checkpoint = record.checkpoint
    job = _write(session, lease, attempts_without_progress=0)
    if iterations.save(session, lease.job_id, record, attempt=lease.attempt, lease_epoch=lease.epoch):
        loss = float(record.losses.outer)
        _write(
            session,
            lease,
            meta_iteration=checkpoint.iteration,
            latest_outer_loss=loss,
            best_iteration=checkpoint.best_iteration,
            best_outer_loss=checkpoint.best_outer_loss,
            certificate=certificates.joined(job.certificate, as_json(record.certificate)),
            seconds_per_iteration=func.coalesce(
                Job.seconds_per_iteration * (1 - _RECENT) + record.seconds * _RECENT, record.seconds
            ),
            last_progress_at=func.clock_timestamp(),
        )
        events.record(session, lease.job_id, Kind.ITERATION, iteration=record.iteration, outer_loss=loss)
    learned.save_checkpoint(session, lease.job_id, checkpoint)
    if not job.keeps_every_iteration:
        kept = {0, checkpoint.iteration, checkpoint.best_iteration}
        learned.prune(session, lease.job_id, {iteration for iteration in kept if iteration is not None})
    return _wish(job)


def succeed(
    session: Session,
    lease: Lease,
    *,
    best_iteration: int,
    evaluations: dict[str, Evaluation | None],
    arrays: dict[str, np.ndarray],
    provenance: dict[str, Any],
) -> None:
    """End the job with its result: which iteration is best, the losses that show it, and what was measured beside."""
    measured.save(session, lease.job_id, arrays)  # first: the end locks a row that all of the project's jobs share
    _end(
        session,
        lease,
        state=State.SUCCEEDED,
        best_iteration=best_iteration,
        losses=_all_as_json(evaluations),
        provenance=as_json(provenance),
    )
    events.record(session, lease.job_id, Kind.SUCCEEDED)


def fail(session: Session, lease: Lease, code: str, message: str, details: dict[str, Any]) -> None:
    """End the job with an error. What it learned so far stays."""
    _end(session, lease, state=State.FAILED, error=_error(code, message, details))
    events.record(session, lease.job_id, Kind.FAILED, code=code, message=message)


def cancelled(session: Session, lease: Lease) -> None:
    """End the job as its owner wished. What it learned so far stays."""
    _end(session, lease, state=State.CANCELLED)
    events.record(session, lease.job_id, Kind.CANCELLED)


def give_back(session: Session, lease: Lease) -> None:
    """Hand the job back without charging an attempt: as its owner wishes, cancelled or paused, else to the queue."""
    row = _account(
        session,
        lease,
        state=case(
            (Job.cancel_requested, State.CANCELLED), (Job.pause_requested, State.PAUSED), else_=State.QUEUED
        ),
        pause_requested=False,
        ended_at=case((Job.cancel_requested, func.clock_timestamp())),
        lease_expires_at=None,
        attempts_without_progress=func.greatest(Job.attempts_without_progress - 1, 0),
        published_at=func.clock_timestamp(),
    )
    _after_release(session, lease.job_id, row, reason="worker_shut_down")


def reap(session: Session, max_attempts: int) -> int:
    """Take the jobs whose lease ran out from their workers; returns how many.

    They are queued again, unless cancelled or paused meanwhile, or too often lost without progress.
    """
    overdue = (
        select(Job.id)
        # not clock_timestamp(), which is another in every row: no index could be searched for it
        .where(Job.state == State.RUNNING, Job.lease_expires_at < func.statement_timestamp())
        .with_for_update(skip_locked=True)
    )
    why = WorkerLost(max_attempts)
    rows = session.execute(
        update(Job)
        .where(Job.id.in_(overdue))
        .values(_taken_back(max_attempts, why))
        .returning(Job.id, Job.queue, Job.state)
    ).all()
    for row in rows:
        _after_loss(session, row.id, row, why)
    return len(rows)


def lose(session: Session, lease: Lease, max_attempts: int, why: CoreError, delay: float = 0.0) -> None:
    """Take the job from the holder of the lease, whose process has died or is about to. As `reap`, but at once.

    And its time on a device is known: nobody knows for how long a worker that fell silent went on. Another worker is
    woken after `delay` seconds.
    """
    row = _account(session, lease, **_taken_back(max_attempts, why, delay))
    _after_loss(session, lease.job_id, row, why, delay)


def _taken_back(max_attempts: int, why: CoreError, delay: float = 0.0) -> dict[str, Any]:
    lost = Job.attempts_without_progress >= max_attempts
    error = literal(_error(why.code, str(why), why.details()), Job.error.type)
    return {
        "state": case(
            (Job.cancel_requested, State.CANCELLED),
            (lost, State.FAILED),
            (Job.pause_requested, State.PAUSED),
            else_=State.QUEUED,
        ),
        "pause_requested": False,
        "ended_at": case((Job.cancel_requested | lost, func.clock_timestamp())),
        "error": case((~Job.cancel_requested & lost, error)),
        "lease_expires_at": None,
        "published_at": func.clock_timestamp() + timedelta(seconds=delay),
    }


def _after_loss(session: Session, job_id: UUID, row: Any, why: CoreError, delay: float = 0.0) -> None:
    _after_release(session, job_id, row, reason=why.code, delay=delay, code=why.code, message=str(why))


def _after_release(
    session: Session, job_id: UUID, row: Any, *, reason: str, delay: float = 0.0, **failure: str
) -> None:
    """Tell how a job left its worker, and wake another if it is queued."""
    match row.state:
        case State.QUEUED:
            outbox.add(session, job_id, row.queue, delay)
            events.record(session, job_id, Kind.REQUEUED, reason=reason)
        case State.FAILED:
            events.record(session, job_id, Kind.FAILED, **failure)
        case _:
            events.record(session, job_id, Kind(row.state.value))


def _wish(row: Any) -> Wish:
    if row.cancel_requested:
        return Wish.CANCEL
    return Wish.PAUSE if row.pause_requested else Wish.GO_ON


def _write(session: Session, lease: Lease, **values: Any) -> Any:
    """The one guarded UPDATE that every write of a worker begins with; it also locks the job's row."""
    row = session.execute(update(Job).where(_held_by(lease)).values(**values).returning(*_RETURNED)).one_or_none()
    if row is None:
        raise Fenced(lease.job_id, lease.epoch)
    return row


def _account(session: Session, lease: Lease, **values: Any) -> Any:
    """A `_write` that also counts the time on a device since the last one that did.

    Only heartbeats and ends do: the project's row of the day, which all its workers share, is locked from here on to
    the end of the transaction. After the job's own and its tally, as everywhere.
    """
    before = (
        select(Job.id, Job.accounted_at.label("since"), func.clock_timestamp().label("now"))
        .where(_held_by(lease))
        .with_for_update()
        .subquery()
    )
    row = session.execute(
        update(Job)
        .where(Job.id == before.c.id)
        .values(
            accounted_at=before.c.now,
            device_seconds=Job.device_seconds
            + func.coalesce(func.greatest(func.extract("epoch", before.c.now - before.c.since), 0.0), 0.0),
            **values,
        )
        .returning(*_RETURNED, Job.project_id, before.c.since, before.c.now)
    ).one_or_none()
    if row is None:
        raise Fenced(lease.job_id, lease.epoch)
    quotas.charge(session, row.project_id, row.since, row.now)
    return row


def _held_by(lease: Lease) -> ColumnElement[bool]:
    return (Job.id == lease.job_id) & (Job.state == State.RUNNING) & (Job.lease_epoch == lease.epoch)


def _end(session: Session, lease: Lease, **values: Any) -> None:
    _account(
        session, lease, lease_expires_at=None, pause_requested=False, ended_at=func.clock_timestamp(), **values
    )


def _all_as_json(evaluations: dict[str, Evaluation | None]) -> dict[str, Any]:
    document: dict[str, Any] = as_json(
        {
            name: found and {**found.losses._asdict(), "measures": found.measures}
            for name, found in evaluations.items()
        }
    )
    return document


def _evaluation(document: dict[str, Any] | None) -> Evaluation | None:
    if document is None:
        return None
    parts = [math.nan if document[part] is None else document[part] for part in Losses._fields]
    return Evaluation(Losses(*parts), document.get("measures", {}))


def _error(code: str, message: str, details: dict[str, Any]) -> dict[str, Any]:
    error: dict[str, Any] = as_json({"code": code, "message": message, "details": details})
    return error
