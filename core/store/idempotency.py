"""Creations that must not happen twice: the client's `Idempotency-Key`, and the job that was made with it.

The key's row is written before the job's, in one transaction: whoever comes second waits at it for the first to commit,
and then finds its job. Should the first fail, its key is undone with the job, and the second takes its place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.spec import JobSpec
from core.store import jobs
from core.store.errors import IdempotencyConflict, IdempotentJobDeleted
from core.store.models import IdempotencyKey, Job

KEPT = timedelta(hours=24)
_BATCH = 10_000


def digest(spec: JobSpec, preset: str | None, beside: dict[str, Any]) -> bytes:
    """What makes two requests the same: all that they ask for, however it is written.

    Args:
        spec: the job.
        preset: that it is.
        beside: what is asked for that is no part of the job, as JSON values.
    """
    asked = beside | {"spec": spec.model_dump(mode="json"), "preset": preset}
    return hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).digest()


def once(
    session: Session, project_id: UUID, key: str | None, request_sha256: bytes, create: Callable[[], Job]
) -> tuple[Job, bool]:
    """The job that the key has led to already, as it is now, and True; else the one that `create` makes, and False.

    Raises:
        IdempotencyConflict: another request has the key.
        IdempotentJobDeleted: the key's job is gone.
    """
    if key is None:
        return create(), False
    if (made := take(session, project_id, key, request_sha256)) is not None:
        return jobs.get(session, project_id, made), True
    job = create()
    keep(session, project_id, key, job.id)
    return job, False


def take(session: Session, project_id: UUID, key: str, request_sha256: bytes) -> UUID | None:
    """Have the key for this transaction, which must go on to `keep` the job that it makes; or the job it has made.

    Raises:
        IdempotencyConflict: another request has the key.
        IdempotentJobDeleted: the key's job is gone.
    """
    old = IdempotencyKey.created_at < func.clock_timestamp() - KEPT
    fresh = {"request_sha256": request_sha256, "job_id": None, "created_at": func.clock_timestamp()}
    taken = session.scalar(
        insert(IdempotencyKey)
        .values(project_id=project_id, key=key, request_sha256=request_sha256)
        .on_conflict_do_update(index_elements=["project_id", "key"], set_=fresh, where=old)
        .returning(IdempotencyKey.key)
    )
    if taken is not None:
        return None
    # there: a conflict locks the row, even where the condition leaves it as it is
    found = session.execute(
        select(IdempotencyKey.request_sha256, IdempotencyKey.job_id).where(*_is(project_id, key))
    ).one()
    if found.request_sha256 != request_sha256:
        raise IdempotencyConflict(key)
    if found.job_id is None:
        raise IdempotentJobDeleted(key)
    job_id: UUID = found.job_id
    return job_id


def keep(session: Session, project_id: UUID, key: str, job_id: UUID) -> None:
    """Have the key, taken in this transaction, lead to its job from now on."""
    session.execute(update(IdempotencyKey).where(*_is(project_id, key)).values(job_id=job_id))


def forget(session: Session) -> int:
    """Delete keys older than a day, some thousands at a time; returns how many. Those in use are passed over."""
    old = (
        select(IdempotencyKey.project_id, IdempotencyKey.key)
        .where(IdempotencyKey.created_at < func.statement_timestamp() - KEPT)
        .limit(_BATCH)
        .with_for_update(skip_locked=True)
        .cte()
    )
    gone = delete(IdempotencyKey).where(
        tuple_(IdempotencyKey.project_id, IdempotencyKey.key).in_(select(old.c.project_id, old.c.key))
    )
    return len(session.scalars(gone.returning(IdempotencyKey.key)).all())


def _is(project_id: UUID, key: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return IdempotencyKey.project_id == project_id, IdempotencyKey.key == key
