"""Bytes kept under their SHA-256, in a folder or a bucket, through `fsspec`.

Nothing is ever changed: bytes are written under another name and moved to their own once their digest is known to be
right, so that what stands there is whole. Who reads verifies them again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import fsspec
from fsspec.implementations.local import LocalFileSystem

from core.errors import DamagedBlob, StorageUnavailable

_CHUNK_BYTES = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_UNFINISHED = "unfinished"
_DEFAULT_CACHE = Path("~/.cache/retrograd/blobs")


class Storage:
    """Blobs at a URL. Any number of processes may use it at once."""

    def __init__(self, url: str, *, cache: Path | None = None, cache_bytes: int = 4 << 30) -> None:
        """Connect to nothing yet, where that can be avoided.

        Args:
            url: a folder, or what fsspec knows, such as s3://bucket/prefix.
            cache: folder of local copies, where the URL is no folder.
            cache_bytes: how much they may take together.

        Raises:
            StorageUnavailable: the URL's protocol is unknown, or its package is not installed.
        """
        try:
            # no listings are kept: another process may have deleted what they show
            self._fs, root = fsspec.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            raise StorageUnavailable(
                f"RETROGRAD_STORAGE_URL: {error}. For s3:// install the extra s3: pip install 'retrograd[s3]'"
            ) from error
        except ValueError as error:
            raise StorageUnavailable(f"RETROGRAD_STORAGE_URL: {error}") from error
        self._root = root.rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)
        self._cache, self._cache_bytes = (cache or _DEFAULT_CACHE).expanduser(), cache_bytes

    def put(self, file: BinaryIO, sha256: str) -> None:
        """Keep all bytes of `file`, unless they are here already, and sound.

        Raises:
            DamagedBlob: the bytes have another digest; nothing is kept.
        """
        path = self._path(sha256)
        with contextlib.suppress(FileNotFoundError), self._fs.open(path, "rb") as kept:
            if _digest(kept) == sha256:
                return
        file.seek(0)
        unfinished = f"{self._root}/{_UNFINISHED}/{uuid4().hex}"
        self._make_folder_of(unfinished)
        try:
            with self._fs.open(unfinished, "wb") as target:
                digest = _copied(file, target)
                if self._local:
                    target.flush()
                    os.fsync(target.fileno())
            if digest != sha256:
                raise DamagedBlob(sha256, f"came with the digest {digest}")
            self._make_folder_of(path)
            self._fs.mv(unfinished, path)
            self._sync_folder_of(path)
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm_file(unfinished)
            raise

    @contextmanager
    def opened(self, sha256: str) -> Iterator[BinaryIO]:
        """A blob as an open file on this machine, its digest verified. It stays readable when the blob is deleted.

        Raises:
            DamagedBlob: the bytes are not there, or others.
        """
        try:
            file = self._open(sha256)
        except FileNotFoundError as error:
            raise DamagedBlob(sha256, "are not in the storage") from error
        with file:
            file.seek(0)
            if _digest(file) != sha256:
                raise DamagedBlob(sha256, "have another digest now")
            file.seek(0)
            yield file

    def delete(self, sha256: str) -> None:
        """Forget a blob. One that is not there is no error."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(sha256))

    def found(self) -> Iterator[tuple[str, int]]:
        """Digest and bytes of every blob that is here. Slow: it looks at all of them."""
        for path, info in self._fs.find(self._root, detail=True).items():
            name = path.rpartition("/")[2]
            if _SHA256.fullmatch(name):
                yield name, int(info["size"])

    def clear_unfinished(self, seconds: float) -> int:
        """Delete what writers that were killed have left, once it is so old; returns how many."""
        cleared = 0
        for path in self._fs.find(f"{self._root}/{_UNFINISHED}"):
            with contextlib.suppress(FileNotFoundError):
                if (datetime.now(UTC) - _aware(self._fs.modified(path))).total_seconds() > seconds:
                    self._fs.rm_file(path)
                    cleared += 1
        return cleared

    def _open(self, sha256: str) -> BinaryIO:
        return Path(self._path(sha256)).open("rb") if self._local else self._fetched(sha256)

    def _path(self, sha256: str) -> str:
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256!r} is not a SHA-256 digest")
        return f"{self._root}/{sha256[:2]}/{sha256}"

    def _make_folder_of(self, path: str) -> None:
        if self._local:  # a bucket has none
            Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _sync_folder_of(self, path: str) -> None:
        """A row that says the bytes are here must not outlive them when the power fails."""
        if self._local:
            folder = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _fetched(self, sha256: str) -> BinaryIO:
        """The copy on this machine, made now unless there is a sound one."""
        remote, path = self._path(sha256), self._cache / sha256
        self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            copy = path.open("rb")  # and never again by its name: another worker may make room meanwhile
            if _digest(copy) == sha256:
                with contextlib.suppress(FileNotFoundError):
                    os.utime(path)
                return copy
            copy.close()
        descriptor, name = tempfile.mkstemp(dir=self._cache, prefix=_UNFINISHED)
        made = os.fdopen(descriptor, "w+b")
        try:
            with self._fs.open(remote, "rb") as source:
                shutil.copyfileobj(source, made, _CHUNK_BYTES)
            made.flush()
            Path(name).replace(path)
        except BaseException:
            made.close()
            Path(name).unlink(missing_ok=True)
            raise
        self._make_room(path)
        return made

    def _make_room(self, newest: Path) -> None:
        copies = []
        for path in self._cache.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another worker makes room too
                if _SHA256.fullmatch(path.name):
                    info = path.stat()
                    copies.append((path != newest, -info.st_mtime, info.st_size, path))
        left = self._cache_bytes
        for is_older, _, size, path in sorted(copies):
            left -= size
            if left < 0 and is_older:
                path.unlink(missing_ok=True)


def open_storage(settings: Any) -> Storage | None:
    """That of the settings; None where none is set."""
    if not settings.storage_url:
        return None
    return Storage(settings.storage_url, cache=settings.storage_cache, cache_bytes=settings.storage_cache_bytes)


def _copied(source: BinaryIO, target: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK_BYTES):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()


def _digest(file: BinaryIO) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
