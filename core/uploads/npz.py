"""The two arrays of an npz archive. What `numpy.savez` never writes is refused."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from core.errors import DatasetTooLarge, InvalidDataset
from core.uploads.arrays import Array, Found, Source, check_sizes
from core.uploads.npy import read_header
from core.zips import UNREADABLE, check_directory, check_entry, shown

MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
INPUTS, LABELS, TARGETS = ("images", "inputs"), "labels", "targets"

_MAX_ENTRIES = 16
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\.npy")
_SAVE = "save it with numpy.savez(path, images=…, labels=…)"


@contextmanager
def opened(file: BinaryIO, max_bytes: int) -> Iterator[Found]:
    """Inputs and labels, or targets, of the archive, their sizes checked and their numbers unread.

    Raises:
        InvalidDataset: not an archive that `numpy.savez` could have written, or without the two.
        DatasetTooLarge: more than `max_bytes` of numbers, or a decompression bomb.
    """
    compressed_bytes = check_directory(file, _MAX_ENTRIES, _refusal)
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(file))
        except UNREADABLE as error:
            raise InvalidDataset(f"file: is not a sound npz archive; {_SAVE}") from error
        entries = _checked(archive.infolist(), compressed_bytes, max_bytes)
        wanted = [name for name in INPUTS if name in entries]
        wanted += [name for name in (LABELS, TARGETS) if name in entries]
        if len(wanted) != 2 or wanted[0] not in INPUTS or wanted[1] in INPUTS:
            raise InvalidDataset(
                f"file: holds {', '.join(sorted(entries)) or 'nothing'}; exactly one of images and inputs, and one of "
                "targets and labels, are needed"
            )
        inputs, labels = (_array(stack, archive, entries[name]) for name in wanted)
        check_sizes(inputs, labels, compressed_bytes=compressed_bytes, max_bytes=max_bytes)
        yield Found(inputs, labels, are_targets=wanted[1] == TARGETS)


def _checked(infos: list[zipfile.ZipInfo], compressed_bytes: int, max_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """Entries by the name of their array."""
    if len(infos) > _MAX_ENTRIES:
        raise InvalidDataset(f"file: has {len(infos)} entries, more than {_MAX_ENTRIES}; {_SAVE}")
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename
        if not _NAME.fullmatch(name) or info.orig_filename != name:
            raise InvalidDataset(f"{shown(name)}: is not a name that numpy.savez gives; {_SAVE}")
        check_entry(info, compressed_bytes, _refusal)
        if info.file_size > max_bytes:
            raise DatasetTooLarge(f"{name}: declares {info.file_size} bytes, more than {max_bytes}; send less")
        if entries.setdefault(name.removesuffix(".npy"), info) is not info:
            raise InvalidDataset(f"{name}: is there twice; {_SAVE}")
    return entries


def _array(stack: ExitStack, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    try:
        stream = stack.enter_context(archive.open(info))
    except UNREADABLE as error:
        raise InvalidDataset(f"{info.filename}: cannot be read; {_SAVE}") from error
    array, header_bytes = read_header(Source(stream, info.filename))  # type: ignore[arg-type]
    if header_bytes + array.nbytes != info.file_size:
        raise InvalidDataset(
            f"{info.filename}: its header declares {array.nbytes} bytes of numbers, its entry {info.file_size} with "
            f"the header; {_SAVE}"
        )
    return array


def _refusal(said: str) -> InvalidDataset:
    return InvalidDataset(f"{said}; {_SAVE}")
