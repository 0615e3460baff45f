"""Uploads: forms that carry files, and what is kept of them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, BinaryIO, NamedTuple, TypeVar
from uuid import UUID

from anyio import CapacityLimiter, WouldBlock
from fastapi import Request
from sqlalchemy.orm import Session, sessionmaker
from starlette.datastructures import UploadFile

from api.errors import Busy, UnsupportedMediaType
from core.errors import CoreError, StorageUnavailable
from core.quotas import Quotas
from core.storage import Storage
from core.store import blobs, quotas
from core.store.models import UploadColumns
from core.store.uploads import Stored, Uploads

TAKEN_AT_ONCE = 16
"""Uploads on their way at the same time: each holds as many bytes as one may have."""

MAX_NAME = 200
FORM_BYTES = 1 << 16  # that stand around the files of a form
NAME_FIELD = {"type": "string", "minLength": 1, "maxLength": MAX_NAME}
_STRAYS = 4  # parts that nobody asked for, so that they can be named

log = logging.getLogger(__name__)

Row = TypeVar("Row", bound=UploadColumns)


class Sent(NamedTuple):
    """A form: the name of what it carries, its other texts, and its files."""

    name: str
    texts: dict[str, str]
    files: dict[str, BinaryIO]


class Keeper(NamedTuple):
    """Where uploads of one request are kept."""

    sessions: sessionmaker[Session]
    storage: Storage
    project: UUID
    defaults: Quotas

    def keep(
        self, uploads: Uploads[Row], name: str, file: BinaryIO, sha256: str, size: int, summary: dict[str, Any]
    ) -> tuple[Stored[Row], bool]:
        """Store bytes and make them an upload, in an order that leaves nothing that the janitor does not find.

        Returns it, and whether it is new.
        """
        with self.sessions.begin() as session:
            limits = quotas.of(session, self.project, self.defaults)
            if not uploads.is_there(session, self.project, name, sha256):
                quotas.check_room(session, self.project, limits, size)
            blobs.expect(session, sha256, size)
        self.storage.put(file, sha256)
        with self.sessions.begin() as session:
            stored, is_new = uploads.add(session, self.project, name, sha256, summary)
            if is_new:
                quotas.check(session, self.project, limits, added_bytes=stored.size)
            return stored, is_new


@asynccontextmanager
async def received(
    request: Request,
    project: UUID,
    *,
    texts: Sequence[str],
    files: Sequence[str],
    wrong: type[CoreError],
    accepted: str,
    longest_text: int = 4 * MAX_NAME,
) -> AsyncIterator[tuple[Sent, Keeper]]:
    """What a request's form holds, while it is looked at, and where that is to be kept.

    Args:
        request: multipart/form-data.
        project: who sends it.
        texts: fields that it may have beside `name`.
        files: that it may have.
        wrong: the error where it is another form.
        accepted: which files are, in words.
        longest_text: bytes.

    Raises:
        StorageUnavailable: nothing can be kept here, or not now.
        UnsupportedMediaType: no form.
        Busy: as many as may be are on their way.
    """
    state = request.app.state
    if state.storage is None:
        raise StorageUnavailable("this server keeps no data; set RETROGRAD_STORAGE_URL to a folder or a bucket")
    _multipart_only(request)
    texts = ("name", *texts)
    try:
        limits = {"max_files": len(files) + _STRAYS, "max_fields": len(texts) + _STRAYS}
        async with _place(state.uploading), request.form(**limits, max_part_size=longest_text) as form:
            sent = _sent(form.multi_items(), texts, files, wrong, accepted)
            yield sent, Keeper(state.sessions, state.storage, project, state.settings.quotas)
    except OSError as error:
        log.error("an upload could not be kept: %s", error)
        raise StorageUnavailable("the data cannot be stored now; try again later") from error


@asynccontextmanager
async def _place(limiter: CapacityLimiter) -> AsyncIterator[None]:
    try:
        limiter.acquire_nowait()
    except WouldBlock as error:
        raise Busy("too many uploads at once") from error
    try:
        yield
    finally:
        limiter.release()


def _multipart_only(request: Request) -> None:
    given = request.headers.get("content-type", "").lower()
    kind, _, parameters = given.partition(";")
    if kind.strip() != "multipart/form-data" or "charset" in parameters:  # it would choose how names are decoded
        raise UnsupportedMediaType(given[:80], "multipart/form-data")


def _sent(
    items: Sequence[tuple[str, UploadFile | str]],
    known_texts: Sequence[str],
    known_files: Sequence[str],
    wrong: type[CoreError],
    accepted: str,
) -> Sent:
    texts: dict[str, str] = {}
    files: dict[str, BinaryIO] = {}
    for field, value in items:
        is_file = isinstance(value, UploadFile)
        if field not in (known_files if is_file else known_texts):
            what = f"a {'file' if is_file else 'text'} named {field[:40]!a}"
            raise wrong(f"the request holds {what}; send name as text, and {accepted}")
        if field in files or field in texts:
            raise wrong(f"{field}: is there twice; send it once")
        if isinstance(value, UploadFile):
            files[field] = value.file
        else:
            texts[field] = value
    name = texts.pop("name", "")
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise wrong(f"name: is needed, of 1 to {MAX_NAME} printable characters")
    return Sent(name, texts, files)
