"""Uploaded data sets, and the blobs that hold their bytes: one for the same data, however many projects have it.

A blob is known here before its bytes are stored (`expect`), and forgotten after they are deleted (`collect`). Both
lock its row: a blob that is being collected and sent again at the same time is stored again afterwards.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import exists, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.datasets import DatasetInfo, info_of
from core.errors import InvalidSpec, StorageUnavailable
from core.spec import JobSpec
from core.store import cursors
from core.store.errors import DatasetInUse, UnknownUpload
from core.store.leases import Lease
from core.store.models import UNENDED, Blob, Dataset, Job

UNUSED_SECONDS = 3600.0
"""How long a blob may be without a data set: far longer than storing its bytes takes."""


class Stored(NamedTuple):
    """A data set and the bytes it takes."""

    dataset: Dataset
    size: int


class Page(NamedTuple):
    """Data sets, newest first."""

    datasets: list[Stored]
    next: str | None  # cursor of the page after, None at the end


def expect(session: Session, sha256: str, size: int) -> None:
    """Have a blob left alone for `UNUSED_SECONDS`. Commit, then store its bytes, then `add` what they are."""
    session.execute(
        insert(Blob)
        .values(sha256=sha256, size=size)
        .on_conflict_do_update(index_elements=[Blob.sha256], set_={"created_at": func.clock_timestamp()})
    )


def add(
    session: Session, project_id: UUID, name: str, sha256: str, summary: dict[str, Any]
) -> tuple[Stored, bool]:
    """Make a stored blob a data set of the project; returns it, and whether it is new.

    Raises:
        StorageUnavailable: storing took so long that the blob was collected meanwhile.
    """
    kept = select(Blob.size).where(Blob.sha256 == sha256).with_for_update(read=True, key_share=True)
    if (size := session.scalar(kept)) is None:
        raise StorageUnavailable("the data took too long to store and were removed again; send them again")
    dataset_id = f"ds_{secrets.token_hex(12)}"
    row = {"id": dataset_id, "project_id": project_id, "name": name, "sha256": sha256, "summary": summary}
    session.execute(insert(Dataset).values(row).on_conflict_do_nothing())
    same = (Dataset.project_id == project_id, Dataset.sha256 == sha256, Dataset.name == name)
    dataset = session.scalars(select(Dataset).where(*same)).one()
    return Stored(dataset, size), dataset.id == dataset_id


def get(session: Session, project_id: UUID, dataset_id: str) -> Stored:
    """A data set of the project.

    Raises:
        UnknownUpload: the project has none of this id.
    """
    query = select(Dataset, Blob.size).join(Blob, Blob.sha256 == Dataset.sha256)
    row = session.execute(query.where(*_is(project_id, dataset_id))).one_or_none()
    if row is None:
        raise UnknownUpload(dataset_id)
    return Stored(row.Dataset, row.size)


def page(session: Session, project_id: UUID, *, after: str | None = None, limit: int = 20) -> Page:
    """Data sets of the project, newest first, from the cursor `after` on."""
    query = select(Dataset, Blob.size).join(Blob, Blob.sha256 == Dataset.sha256)
    query = query.where(Dataset.project_id == project_id)
    if after is not None:
        created_at, dataset_id = cursors.decode(after)
        query = query.where(tuple_(Dataset.created_at, Dataset.id) < tuple_(created_at, dataset_id))
    query = query.order_by(Dataset.created_at.desc(), Dataset.id.desc()).limit(limit + 1)
    found = [Stored(row.Dataset, row.size) for row in session.execute(query)]
    last = found[limit - 1].dataset if len(found) > limit else None
    return Page(found[:limit], None if last is None else cursors.encode(last.created_at, last.id))


def remove(session: Session, project_id: UUID, dataset_id: str) -> None:
    """Forget a data set. Its bytes go later, if nobody else has them.

    Raises:
        UnknownUpload: the project has none of this id.
        DatasetInUse: jobs learn from it.
    """
    # locked before the jobs are counted: one that is being created holds its data set until it is there to be counted
    locked = session.scalar(select(Dataset).where(*_is(project_id, dataset_id)).with_for_update())
    if locked is None:
        raise UnknownUpload(dataset_id)
    users = select(func.count()).where(Job.dataset_id == dataset_id, Job.state.in_(UNENDED))
    if number := session.execute(users).scalar_one():
        raise DatasetInUse(dataset_id, number)
    session.delete(locked)
    session.flush()


def pin(session: Session, project_id: UUID, spec: JobSpec) -> tuple[JobSpec, DatasetInfo | None]:
    """The job with the digest of its uploaded data, and their sizes; as it is, where it is about others.

    The data set stays until the transaction ends.

    Raises:
        InvalidSpec: not uploaded to this project, or other data than the job wants.
    """
    wanted = spec.uploaded
    if wanted is None:
        return spec, None
    held = select(Dataset).where(*_is(project_id, wanted.id)).with_for_update(read=True, key_share=True)
    dataset = session.scalar(held)
    if dataset is None:
        raise InvalidSpec((("problem", "dataset", "id"), str(UnknownUpload(wanted.id))))
    if wanted.sha256 not in (None, dataset.sha256):
        raise InvalidSpec(
            (
                ("problem", "dataset", "sha256"),
                f"the data of {wanted.id} have the SHA-256 {dataset.sha256}; give that, or leave it out",
            )
        )
    summary = dataset.summary
    return spec.pinned(dataset.sha256), info_of(
        wanted.id, tuple(summary["inputs"]["shape"]), summary["class_counts"]
    )


def of_job(session: Session, lease: Lease) -> str | None:
    """Digest of the uploaded data that the holder of the lease may learn from; None where they were deleted."""
    query = select(Dataset.sha256).join(Job, Job.dataset_id == Dataset.id).where(Job.id == lease.job_id)
    return session.scalar(query)


def collect(session: Session, delete_bytes: Callable[[str], None], unused_seconds: float = UNUSED_SECONDS) -> bool:
    """Delete a blob that belongs to no data set, its bytes first; returns whether there was one.

    A job that has not ended keeps its data set, and so its blob.
    """
    since = func.clock_timestamp() - timedelta(seconds=unused_seconds)
    unused = ~exists().where(Dataset.sha256 == Blob.sha256)
    query = select(Blob).where(Blob.created_at < since, unused).order_by(Blob.created_at).limit(1)
    blob = session.scalar(query.with_for_update(skip_locked=True))
    if blob is None:
        return False
    # again, now that the row is locked: the query above saw the data sets of the moment at which it began
    if session.scalar(select(exists().where(Dataset.sha256 == blob.sha256))):
        return True
    delete_bytes(blob.sha256)
    session.delete(blob)
    session.flush()
    return True


def adopt(session: Session, found: Sequence[tuple[str, int]]) -> int:
    """Know of blobs that are stored, by digest and bytes, so that `collect` finds them; returns how many were unknown.

    Such are left when a process is killed between deleting a row and the bytes, or a database is restored.
    """
    rows = [{"sha256": sha256, "size": size} for sha256, size in found]
    statement = insert(Blob).values(rows).on_conflict_do_nothing().returning(Blob.sha256)
    return len(session.scalars(statement).all())


def _is(project_id: UUID, dataset_id: str) -> tuple[Any, Any]:
    return Dataset.id == dataset_id, Dataset.project_id == project_id
