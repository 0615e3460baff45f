"""Blobs: bytes that are stored once, however many uploads of however many projects they are.

A blob is known here before its bytes are stored (`expect`), and forgotten after they are deleted (`collect`). Both
lock its row: a blob that is being collected and sent again at the same time is stored again afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, exists, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.errors import StorageUnavailable
from core.store.models import Blob, Dataset, Program

UNUSED_SECONDS = 3600.0
"""How long a blob may be without an upload: far longer than storing its bytes takes."""

_UPLOADS = (Dataset, Program)  # whose rows keep a blob


def expect(session: Session, sha256: str, size: int) -> None:
    """Have a blob left alone for `UNUSED_SECONDS`. Commit, then store its bytes, then add an upload of it."""
    session.execute(
        insert(Blob)
        .values(sha256=sha256, size=size)
        .on_conflict_do_update(index_elements=[Blob.sha256], set_={"created_at": func.clock_timestamp()})
    )


def held(session: Session, sha256: str) -> int:
    """Bytes of a blob that stays until the transaction ends.

    Raises:
        StorageUnavailable: storing took so long that the blob was collected meanwhile.
    """
    kept = select(Blob.size).where(Blob.sha256 == sha256).with_for_update(read=True, key_share=True)
    if (size := session.scalar(kept)) is None:
        raise StorageUnavailable("the data took too long to store and were removed again; send them again")
    return size


def collect(session: Session, delete_bytes: Callable[[str], None], unused_seconds: float = UNUSED_SECONDS) -> bool:
    """Delete a blob that belongs to no upload, its bytes first; returns whether there was one.

    A job that has not ended keeps its uploads, and so their blobs.
    """
    # a storage may take its time, and the row's lock must not be lost meanwhile: the same bytes could be stored again,
    # and deleted afterwards
    session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    since = func.clock_timestamp() - timedelta(seconds=unused_seconds)
    query = select(Blob).where(Blob.created_at < since, *(~exists().where(one) for one in _of(Blob.sha256)))
    blob = session.scalar(query.order_by(Blob.created_at).limit(1).with_for_update(skip_locked=True))
    if blob is None:
        return False
    # again, now that the row is locked: the query above saw the uploads of the moment at which it began
    if any(session.scalar(select(exists().where(one))) for one in _of(blob.sha256)):
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


def _of(sha256: object) -> list[ColumnElement[bool]]:
    return [upload.sha256 == sha256 for upload in _UPLOADS]
