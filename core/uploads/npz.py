"""The two arrays of an npz archive. Nothing that the archive says of itself is believed.

Zip files can hold one entry many times, under two names, with two lengths, or a directory larger than all memory. What
`numpy.savez` never writes is refused; `zipfile` sees only directories that are small.
"""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from core.errors import DatasetTooLarge, InvalidDataset
from core.uploads.arrays import Array, Found, Source, check_sizes
from core.uploads.npy import read_header

MAGICS = (b"PK\x03\x04", b"PK\x05\x06")
INPUTS, LABELS, TARGETS = ("images", "inputs"), "labels", "targets"

_MAX_ENTRIES = 16
_MAX_DIRECTORY_BYTES = 1 << 14
_END, _END_SIGNATURE = struct.Struct("<4s4H2IH"), b"PK\x05\x06"
_END_64_LOCATOR_BYTES, _END_64_SIGNATURE = 20, b"PK\x06\x07"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\.npy")
_UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    OverflowError,
)
_SAVE = "save it with numpy.savez(path, images=…, labels=…)"


@contextmanager
def opened(file: BinaryIO, max_bytes: int) -> Iterator[Found]:
    """Inputs and labels, or targets, of the archive, their sizes checked and their numbers unread.

    Raises:
        InvalidDataset: not an archive that `numpy.savez` could have written, or without the two.
        DatasetTooLarge: more than `max_bytes` of numbers, or a decompression bomb.
    """
    compressed_bytes = _check_directory(file)
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(file))
        except _UNREADABLE as error:
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


def _check_directory(file: BinaryIO) -> int:
    """Bytes of the file, once its last record is known to announce a small directory."""
    size = file.seek(0, 2)
    tail_bytes = min(size, _END.size + _END_64_LOCATOR_BYTES)
    file.seek(size - tail_bytes)
    before, end = (tail := file.read(tail_bytes))[: -_END.size], tail[-_END.size :]
    if len(end) < _END.size or not end.startswith(_END_SIGNATURE):
        raise InvalidDataset(f"file: has no zip directory at its end, or a comment after it; {_SAVE}")
    _, disk, first_disk, here, entries, directory_bytes, _, comment_bytes = _END.unpack(end)
    if disk or first_disk or here != entries or comment_bytes or before.startswith(_END_64_SIGNATURE):
        raise InvalidDataset(f"file: is a zip file in parts, with a comment, or of zip64; {_SAVE}")
    if entries > _MAX_ENTRIES or directory_bytes > _MAX_DIRECTORY_BYTES:
        raise InvalidDataset(f"file: has {entries} entries in a directory of {directory_bytes} bytes; {_SAVE}")
    return size


def _checked(infos: list[zipfile.ZipInfo], compressed_bytes: int, max_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """Entries by the name of their array."""
    if len(infos) > _MAX_ENTRIES:
        raise InvalidDataset(f"file: has {len(infos)} entries, more than {_MAX_ENTRIES}; {_SAVE}")
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename
        if not _NAME.fullmatch(name) or info.orig_filename != name:
            raise InvalidDataset(f"{_shown(name)}: is not a name that numpy.savez gives; {_SAVE}")
        if info.flag_bits & 0x2041:  # encrypted, strongly, or with a masked header
            raise InvalidDataset(f"{name}: is encrypted; {_SAVE}")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise InvalidDataset(f"{name}: is not a plain file; {_SAVE}")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InvalidDataset(f"{name}: is compressed by method {info.compress_type}; {_SAVE}")
        if info.compress_size > compressed_bytes:
            raise InvalidDataset(f"{name}: declares more bytes than the whole file has; {_SAVE}")
        if info.file_size > max_bytes:
            raise DatasetTooLarge(f"{name}: declares {info.file_size} bytes, more than {max_bytes}; send less")
        if entries.setdefault(name.removesuffix(".npy"), info) is not info:
            raise InvalidDataset(f"{name}: is there twice; {_SAVE}")
    return entries


def _array(stack: ExitStack, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    try:
        stream = stack.enter_context(archive.open(info))
    except _UNREADABLE as error:
        raise InvalidDataset(f"{info.filename}: cannot be read; {_SAVE}") from error
    array, header_bytes = read_header(Source(stream, info.filename))  # type: ignore[arg-type]
    if header_bytes + array.nbytes != info.file_size:
        raise InvalidDataset(
            f"{info.filename}: its header declares {array.nbytes} bytes of numbers, its entry {info.file_size} with "
            f"the header; {_SAVE}"
        )
    return array


def _shown(name: str) -> str:
    return repr(name[:60].encode("ascii", "backslashreplace").decode())
