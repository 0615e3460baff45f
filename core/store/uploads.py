"""What projects have uploaded, of one kind: rows over blobs, which jobs use."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import Select, SelectBase, exists, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.errors import CoreError
from core.store import blobs, cursors
from core.store.errors import InvalidCursor
from core.store.models import UNENDED, Blob, Job, UploadColumns

Row = TypeVar("Row", bound=UploadColumns)


class Stored(NamedTuple, Generic[Row]):
    """An upload, and the bytes that it takes."""

    row: Row
    size: int


class Page(NamedTuple, Generic[Row]):
    """Uploads, newest first."""

    stored: list[Stored[Row]]
    next: str | None  # cursor of the page after, None at the end


class Uploads(Generic[Row]):
    """All uploads of one kind."""

    def __init__(
        self,
        table: type[Row],
        prefix: str,
        *,
        used_by: Callable[[str], SelectBase],
        unknown: Callable[[str], CoreError],
        in_use: Callable[[str, int], CoreError],
    ) -> None:
        """Of one table.

        Args:
            table: its rows.
            prefix: of their ids.
            used_by: the query for the jobs that an upload of this id is needed by.
            unknown: error about an id that the project has no upload of.
            in_use: error about an upload that is needed by so many jobs.
        """
        self._table, self._prefix, self._used_by = table, prefix, used_by
        self._unknown, self._in_use = unknown, in_use

    def add(
        self, session: Session, project_id: UUID, name: str, sha256: str, summary: dict[str, Any]
    ) -> tuple[Stored[Row], bool]:
        """Make a stored blob an upload of the project; returns it, and whether it is new.

        Raises:
            StorageUnavailable: storing took so long that the blob was collected meanwhile.
        """
        size, table = blobs.held(session, sha256), self._table
        upload_id = f"{self._prefix}_{secrets.token_hex(12)}"
        row = {"id": upload_id, "project_id": project_id, "name": name, "sha256": sha256, "summary": summary}
        same = [table.project_id, table.sha256, table.name]
        # an update that changes nothing also locks the row that is there: it cannot be deleted before it is read
        upsert = insert(table).values(row).on_conflict_do_update(index_elements=same, set_={"name": name})
        found = session.scalars(upsert.returning(table)).one()
        return Stored(found, size), found.id == upload_id

    def is_there(self, session: Session, project_id: UUID, name: str, sha256: str) -> bool:
        """Whether the project has these bytes under this name."""
        table = self._table
        same = exists().where(table.project_id == project_id, table.sha256 == sha256, table.name == name)
        return bool(session.scalar(select(same)))

    def get(self, session: Session, project_id: UUID, upload_id: str) -> Stored[Row]:
        """An upload of the project; the error `unknown` where it has none of this id."""
        found = session.execute(self._with_size().where(*self._is(project_id, upload_id))).one_or_none()
        if found is None:
            raise self._unknown(upload_id)
        return Stored(*found)

    def page(self, session: Session, project_id: UUID, *, after: str | None = None, limit: int = 20) -> Page[Row]:
        """Uploads of the project, newest first, from the cursor `after` on."""
        table = self._table
        query = self._with_size().where(table.project_id == project_id)
        if after is not None:
            created_at, upload_id = cursors.decode(after)
            if "\0" in upload_id:  # no text of Postgres
                raise InvalidCursor
            query = query.where(tuple_(table.created_at, table.id) < tuple_(created_at, upload_id))
        query = query.order_by(table.created_at.desc(), table.id.desc()).limit(limit + 1)
        found = [Stored(*one) for one in session.execute(query)]
        last = found[limit - 1].row if len(found) > limit else None
        return Page(found[:limit], None if last is None else cursors.encode(last.created_at, last.id))

    def remove(self, session: Session, project_id: UUID, upload_id: str) -> None:
        """Forget an upload. Its bytes go later, if nobody else has them.

        The errors are `unknown`, and `in_use` while jobs that have not ended need it.
        """
        # locked before the jobs are counted: one that is being created holds its uploads until it is there
        query = select(self._table).where(*self._is(project_id, upload_id))
        locked = session.scalar(query.with_for_update())
        if locked is None:
            raise self._unknown(upload_id)
        users = select(func.count()).where(Job.id.in_(self._used_by(upload_id)), Job.state.in_(UNENDED))
        if number := session.execute(users).scalar_one():
            raise self._in_use(upload_id, number)
        session.delete(locked)
        session.flush()

    def held(self, session: Session, project_id: UUID, upload_id: str) -> Row | None:
        """An upload of the project that stays until the transaction ends; None where there is none of this id."""
        query = select(self._table).where(*self._is(project_id, upload_id))
        return session.scalar(query.with_for_update(read=True, key_share=True))

    def _with_size(self) -> Select[Row, int]:
        return select(self._table, Blob.size).join(Blob, Blob.sha256 == self._table.sha256)

    def _is(self, project_id: UUID, upload_id: str) -> tuple[Any, Any]:
        return self._table.id == upload_id, self._table.project_id == project_id
