"""Where the end of a job is told, and what is told: kept in the transaction that ends the job."""

from __future__ import annotations

import json
from datetime import UTC
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.store.models import Delivery, Job, Webhook

_TOLD = (
    "id",
    "name",
    "preset",
    "state",
    "error",
    "attempt",
    "meta_iteration",
    "num_iterations",
    "best_iteration",
    "losses",
    "spec_sha256",
)


def attach(session: Session, job_id: UUID, url: str, secret: str) -> Webhook:
    """Have a new job's ends told to `url`, signed with `secret`."""
    webhook = Webhook(job_id=job_id, url=url, secret=secret)
    session.add(webhook)
    session.flush()
    return webhook


def of(session: Session, job_id: UUID) -> Webhook | None:
    """The job's webhook, if it has one."""
    return session.scalars(
        select(Webhook).where(Webhook.job_id == job_id).execution_options(populate_existing=True)
    ).one_or_none()


def tell(session: Session, job_id: UUID, kind: str) -> None:
    """Have the end of a job delivered, if somebody wants to hear of it. What it says is settled here."""
    wanted = select(Webhook.job_id).where(Webhook.job_id == job_id, Webhook.disabled_at.is_(None))
    if session.scalar(wanted) is None:
        return
    columns = [getattr(Job, name) for name in _TOLD]
    job = session.execute(select(*columns, Job.ended_at).where(Job.id == job_id)).one()
    message = {
        "type": f"job.{kind}",
        "timestamp": job.ended_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "data": {"job": {name: getattr(job, name) for name in _TOLD}},
    }
    payload = json.dumps(message, default=str, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    session.execute(insert(Delivery).values(job_id=job_id, kind=message["type"], payload=payload))
