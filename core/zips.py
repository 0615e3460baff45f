"""Zip files that strangers send: nothing that one says of itself is believed.

They can hold one entry many times, under two names, with two lengths, or a directory larger than all memory. What an
honest writer never makes is refused; `zipfile` sees only directories that are small.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import BinaryIO

UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    OverflowError,
)
"""What `zipfile` raises of damaged files."""

MAX_DIRECTORY_BYTES = 1 << 14

_END, _END_SIGNATURE = struct.Struct("<4s4H2IH"), b"PK\x05\x06"
_END_64_LOCATOR_BYTES, _END_64_SIGNATURE = 20, b"PK\x06\x07"

Refuse = Callable[[str], Exception]
"""What is wrong → the error that says so, with the remedy."""


def check_directory(file: BinaryIO, max_entries: int, refuse: Refuse) -> int:
    """Bytes of the file, once its last record is known to announce a small directory."""
    size = file.seek(0, 2)
    tail_bytes = min(size, _END.size + _END_64_LOCATOR_BYTES)
    file.seek(size - tail_bytes)
    before, end = (tail := file.read(tail_bytes))[: -_END.size], tail[-_END.size :]
    if len(end) < _END.size or not end.startswith(_END_SIGNATURE):
        raise refuse("file: has no zip directory at its end, or a comment after it")
    _, disk, first_disk, here, entries, directory_bytes, _, comment_bytes = _END.unpack(end)
    if disk or first_disk or here != entries or comment_bytes or before.startswith(_END_64_SIGNATURE):
        raise refuse("file: is a zip file in parts, with a comment, or of zip64")
    if entries > max_entries or directory_bytes > MAX_DIRECTORY_BYTES:
        raise refuse(f"file: has {entries} entries in a directory of {directory_bytes} bytes")
    return size


def check_entry(info: zipfile.ZipInfo, compressed_bytes: int, refuse: Refuse) -> None:
    """Raise unless an entry, whose name was checked, is a plain file of an honest size."""
    name = info.filename
    if info.flag_bits & 0x2041:  # encrypted, strongly, or with a masked header
        raise refuse(f"{name}: is encrypted")
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        raise refuse(f"{name}: is not a plain file")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise refuse(f"{name}: is compressed by method {info.compress_type}")
    if info.compress_size > compressed_bytes:
        raise refuse(f"{name}: declares more bytes than the whole file has")


def shown(name: str) -> str:
    """A name of an entry as messages can hold it."""
    return repr(name[:60].encode("ascii", "backslashreplace").decode())
