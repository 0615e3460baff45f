"""The entries of a program's zip file, each read no further than its limit."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from core.errors import InvalidProgram
from core.zips import UNREADABLE, check_directory, check_entry, shown

MANIFEST, HYPER = "manifest.json", "hyper.bin"
MAX_MANIFEST_BYTES = 1 << 20
MAX_BYTES = 256 << 20
"""Of all entries, decompressed."""

_MAX_ENTRIES = 16
_MAX_RATIO = 200  # of deflate; constants of a program are numbers like others
_HARMLESS_BYTES = 16 << 20
_FUNCTION = re.compile(r"functions/([a-z][a-z_]{0,31})\.bin")
REMEDY = "write it with retrograd.export_problem(…)"


class Entries:
    """The entries of an archive that is open, their sizes checked and their bytes unread."""

    def __init__(self, archive: zipfile.ZipFile, infos: dict[str, zipfile.ZipInfo]) -> None:
        self._archive, self._infos = archive, infos

    def functions(self) -> set[str]:
        """Names of the functions there are."""
        return {match[1] for name in self._infos if (match := _FUNCTION.fullmatch(name))}

    def read(self, name: str, max_bytes: int = MAX_BYTES) -> bytes:
        """An entry's bytes.

        Raises:
            InvalidProgram: it is not there, too large, or damaged.
        """
        info = self._infos.get(name)
        if info is None:
            raise refusal(f"{name}: is not there")
        if info.file_size > max_bytes:
            raise InvalidProgram(f"{name}: has {info.file_size} bytes, more than {max_bytes}; make it smaller")
        try:
            with self._archive.open(info) as stream:
                content = stream.read(info.file_size + 1)
        except UNREADABLE as error:
            raise refusal(f"{name}: is damaged") from error
        if len(content) != info.file_size:
            raise refusal(f"{name}: has other bytes than it declares")
        return content


def function_entry(name: str) -> str:
    """The entry that holds a function."""
    return f"functions/{name}.bin"


@contextmanager
def opened(file: BinaryIO) -> Iterator[Entries]:
    """The entries of a program's archive.

    Raises:
        InvalidProgram: not a zip file as `archive.write` writes them, or a decompression bomb.
    """
    compressed_bytes = check_directory(file, _MAX_ENTRIES, refusal)
    try:
        archive = zipfile.ZipFile(file)
    except UNREADABLE as error:
        raise refusal("file: is not a sound zip archive") from error
    with archive:
        yield Entries(archive, _checked(archive.infolist(), compressed_bytes))


def _checked(infos: list[zipfile.ZipInfo], compressed_bytes: int) -> dict[str, zipfile.ZipInfo]:
    entries: dict[str, zipfile.ZipInfo] = {}
    if len(infos) > _MAX_ENTRIES:
        raise refusal(f"file: has {len(infos)} entries, more than {_MAX_ENTRIES}")
    for info in infos:
        name = info.filename
        known = name in (MANIFEST, HYPER) or _FUNCTION.fullmatch(name)
        if not known or info.orig_filename != name:
            raise refusal(f"{shown(name)}: is no entry of a program")
        check_entry(info, compressed_bytes, refusal)
        if entries.setdefault(name, info) is not info:
            raise refusal(f"{name}: is there twice")
    total = sum(info.file_size for info in infos)
    if total > MAX_BYTES or total > max(_HARMLESS_BYTES, _MAX_RATIO * compressed_bytes):
        raise InvalidProgram(
            f"file: {compressed_bytes} bytes that declare {total} decompressed ones, more than {MAX_BYTES} or than "
            f"{_MAX_RATIO} times as many; pass large arrays as `data` instead of closing over them"
        )
    return entries


def refusal(said: str) -> InvalidProgram:
    """An archive is not what `archive.write` makes."""
    return InvalidProgram(f"{said}; {REMEDY}")
