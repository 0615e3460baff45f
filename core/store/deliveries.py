"""Deliveries on their way: taken for a while, sent outside of any transaction, settled.

Whoever takes one and vanishes has lost it when the while is over: it is sent again then, under the same id.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from core.store import events
from core.store.errors import UnknownDelivery
from core.store.events import Kind
from core.store.models import Delivery, Job, Webhook

_AUTHORITY = func.split_part(Webhook.url, "/", 3)  # host and port: URLs are kept in their normal form


class Due(NamedTuple):
    """One attempt to be made."""

    id: UUID
    job_id: UUID
    project_id: UUID
    url: str
    secret: str
    payload: str
    attempt: int  # 1 is the first
    at: datetime  # by the database's clock

    @property
    def authority(self) -> str:
        """Whom it goes to: host and port."""
        return self.url.split("/")[2]


def newest(session: Session, job_id: UUID, limit: int) -> Sequence[Delivery]:
    """What was told or is to be told of a job, newest first."""
    query = select(Delivery).where(Delivery.job_id == job_id)
    return session.scalars(query.order_by(Delivery.created_at.desc(), Delivery.id).limit(limit)).all()


def claim(
    session: Session, seconds: float, *, authorities: Collection[str] = (), projects: Collection[UUID] = ()
) -> Due | None:
    """Take what has been due longest for `seconds`; None when nothing is.

    Passes over what goes to these authorities, and what belongs to these projects.
    """
    row = session.execute(
        select(Delivery.id, Delivery.job_id, Job.project_id, Webhook.url, Webhook.secret, Delivery.payload)
        .join(Webhook, Webhook.job_id == Delivery.job_id)
        .join(Job, Job.id == Delivery.job_id)
        # not the clock's own time, which is another in every row: no index could be searched for it
        .where(
            Delivery.next_attempt_at <= func.statement_timestamp(),
            _AUTHORITY.not_in(authorities),
            Job.project_id.not_in(projects),
        )
        .order_by(Delivery.next_attempt_at)
        .limit(1)
        .with_for_update(of=Delivery, skip_locked=True)
    ).one_or_none()
    if row is None:
        return None
    until = func.clock_timestamp() + timedelta(seconds=seconds)
    taken = session.execute(
        update(Delivery)
        .where(Delivery.id == row.id)
        .values(attempt=Delivery.attempt + 1, next_attempt_at=until)
        .returning(Delivery.attempt, func.clock_timestamp().label("at"))
    ).one()
    return Due(*row, attempt=taken.attempt, at=taken.at)


def delivered(session: Session, due: Due) -> None:
    """It was received, whichever attempt it was."""
    session.execute(
        update(Delivery)
        .where(Delivery.id == due.id, Delivery.delivered_at.is_(None))
        .values(delivered_at=func.clock_timestamp(), next_attempt_at=None, last_error=None)
    )


def failed(session: Session, due: Due, error: str, retry_seconds: float | None) -> None:
    """It was not received: another attempt is due in `retry_seconds`, None: no more. Unless there was one since."""
    later = None if retry_seconds is None else func.clock_timestamp() + timedelta(seconds=retry_seconds)
    session.execute(
        update(Delivery)
        .where(Delivery.id == due.id, Delivery.attempt == due.attempt, Delivery.next_attempt_at.is_not(None))
        .values(next_attempt_at=later, last_error=error)
    )


def gone(session: Session, due: Due, error: str) -> None:
    """Its receiver wants no more of this job: nothing is sent to it that is not asked for anew."""
    if not _lock(session, due.job_id):
        return
    disabled = session.execute(
        update(Webhook)
        .where(Webhook.job_id == due.job_id, Webhook.disabled_at.is_(None))
        .values(disabled_at=func.clock_timestamp())
        .returning(Webhook.job_id)
    ).one_or_none()
    session.execute(
        update(Delivery)
        .where(Delivery.job_id == due.job_id, Delivery.next_attempt_at.is_not(None))
        .values(next_attempt_at=None, last_error=error)
    )
    if disabled is not None:
        events.record(session, due.job_id, Kind.WEBHOOK_DISABLED)


def again(session: Session, job_id: UUID, delivery_id: UUID) -> Delivery:
    """Have a delivery sent anew, from its first attempt on, whatever became of it; also to a disabled webhook.

    Raises:
        UnknownDelivery: the job has none of this id.
    """
    _lock(session, job_id)
    changed = session.scalars(
        update(Delivery)
        .where(Delivery.id == delivery_id, Delivery.job_id == job_id)
        .values(attempt=0, next_attempt_at=func.clock_timestamp(), delivered_at=None, last_error=None)
        .returning(Delivery)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if changed is None:
        raise UnknownDelivery(delivery_id)
    enabled = session.execute(
        update(Webhook)
        .where(Webhook.job_id == job_id, Webhook.disabled_at.is_not(None))
        .values(disabled_at=None)
        .returning(Webhook.job_id)
    ).one_or_none()
    if enabled is not None:
        events.record(session, job_id, Kind.WEBHOOK_ENABLED)
    return changed


def _lock(session: Session, job_id: UUID) -> bool:
    """Take the job's row before those that hang on it, as all others do; False when the job is no more."""
    return session.scalar(select(Job.id).where(Job.id == job_id).with_for_update()) is not None
