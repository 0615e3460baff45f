"""The whole service in a few numbers, for whoever runs it."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import BigInteger, cast, func, select
from sqlalchemy.orm import Session

from core.store import outbox
from core.store.models import Delivery, Job, State, Tally, TrackedEnd, Usage, WakeUp


class Overview(NamedTuple):
    """Of all projects together."""

    queued_jobs: int
    running_jobs: int
    stored_bytes: int
    device_seconds_today: float
    wake_ups: int  # due, and not published yet
    oldest_wake_up_seconds: float
    oldest_queued_seconds: float  # since the job that waits longest for a worker was last woken
    silent_jobs: int  # running, with a lease that has expired
    deliveries: int  # webhooks that are due
    unwritten_runs: int  # ends of jobs that a tracking server could not be told of, and will be again


def read(session: Session) -> Overview:
    """As of now. Reads tallies and what is due, however many jobs there have been."""
    now = func.statement_timestamp()
    due = select(func.count(), func.min(WakeUp.created_at)).where(WakeUp.created_at <= now)
    wake_ups, oldest = session.execute(due).one()
    silent = select(func.count()).where(Job.state == State.RUNNING, Job.lease_expires_at < now)
    deliveries = select(func.count()).where(Delivery.next_attempt_at <= now)
    unwritten = select(func.count()).where(
        TrackedEnd.next_attempt_at.is_not(None), TrackedEnd.last_error.is_not(None)
    )
    totals = (Tally.queued_jobs, Tally.running_jobs, Tally.stored_bytes)
    tallies = session.execute(select(*(cast(func.coalesce(func.sum(one), 0), BigInteger) for one in totals))).one()
    spent = select(func.coalesce(func.sum(Usage.device_seconds), 0.0))
    today = spent.where(Usage.day == func.date(func.timezone("UTC", now)))
    at = session.scalar(select(now))
    assert at is not None  # noqa: S101 - for the type checker
    return Overview(
        queued_jobs=tallies[0],
        running_jobs=tallies[1],
        stored_bytes=tallies[2],
        device_seconds_today=session.scalar(today) or 0.0,
        wake_ups=wake_ups,
        oldest_wake_up_seconds=0.0 if oldest is None else (at - oldest).total_seconds(),
        oldest_queued_seconds=outbox.longest_wait(session),
        silent_jobs=session.scalar(silent) or 0,
        deliveries=session.scalar(deliveries) or 0,
        unwritten_runs=session.scalar(unwritten) or 0,
    )
