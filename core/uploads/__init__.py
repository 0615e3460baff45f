"""Data sets that users send: read with suspicion, and brought to one form that workers read without it.

`npz` and `idx` find the two arrays of an upload and check what their headers declare; `arrays` streams them;
`canonical` checks every value and writes the form that is kept. Tables (`csv_rows`, `parquet`) come to the same form by
what their columns are for (`roles`, `columns`, `tables`), in a process of their own (`apart`, `child`). No part holds
more than a few megabytes, whatever a file says of itself.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import BinaryIO

from core.errors import InvalidDataset, UnsupportedDataset
from core.uploads import apart, canonical, idx, npz
from core.uploads.canonical import Canonical
from core.uploads.roles import Roles, parse

ACCEPTED = (
    "an npz archive as `file`, or IDX files (.gz or not) as `images` and `labels`, or a CSV or Parquet file as `file` "
    "with `columns`, which names the target"
)
KINDS = ("npz", "idx", "csv", "parquet")
_OF_PARTS = {frozenset({"file"}): ("npz", "csv", "parquet"), frozenset({"images", "labels"}): ("idx",)}
_PARQUET = (b"PAR1",)

Files = dict[str, BinaryIO]  # by the part of the request that holds them


def normalise(
    files: Files, kind: str | None, to: BinaryIO, max_bytes: int, columns: str | None = None
) -> Canonical:
    """Check an upload and write it to `to` in canonical form.

    Args:
        files: `file`, or `images` and `labels`; seekable.
        kind: one of `KINDS`; None to go by the files.
        to: where the canonical form goes; a file at its start.
        max_bytes: of both arrays, decompressed.
        columns: of a table, what they are for, as JSON: see `roles`.

    Raises:
        InvalidDataset: damaged, contradictory, or with values that cannot be learned from; names the entry.
        DatasetTooLarge: more than `max_bytes`, or a decompression bomb.
        UnsupportedDataset: of another kind than these.
    """
    found = _kind(files, kind, columns)
    with ExitStack() as stack:
        match found:
            case "npz":
                arrays = stack.enter_context(npz.opened(files["file"], max_bytes))
            case "idx":
                arrays = idx.opened(files["images"], files["labels"], max_bytes)
            case _:
                return apart.normalise(files["file"], found, _roles(columns), to, max_bytes)
        return canonical.write(arrays, to)


def _roles(columns: str | None) -> Roles:
    if columns is None:
        raise InvalidDataset('columns: a table needs them; send such as {"target": "price"} beside the file')
    return parse(columns)


def _kind(files: Files, asked: str | None, columns: str | None) -> str:
    if asked is not None and asked not in KINDS:
        raise UnsupportedDataset(f"no data of kind {asked[:20]!r} are read here; send {ACCEPTED}")
    possible = _OF_PARTS.get(frozenset(files))
    if possible is None or (asked is not None and asked not in possible):
        raise InvalidDataset(f"the parts {sorted(files)} are not a data set; send {ACCEPTED}")
    starts = {name: _start(file) for name, file in files.items()}
    kind = asked or _by_start(starts, columns)
    for name, start in starts.items():
        if kind is None or not _begins_like(start, kind):
            raise UnsupportedDataset(f"{name}: begins like no file that is read here; send {ACCEPTED}")
    if columns is not None and kind in ("npz", "idx"):
        raise InvalidDataset(f"columns: {kind} files have none; leave it out")
    return str(kind)


def _start(file: BinaryIO) -> bytes:
    file.seek(0)
    start = file.read(4)
    file.seek(0)
    return start


def _by_start(starts: dict[str, bytes], columns: str | None) -> str | None:
    if "file" not in starts:
        return "idx"
    for kind in ("npz", "parquet"):
        if _begins_like(starts["file"], kind):
            return kind
    return None if columns is None else "csv"


def _begins_like(start: bytes, kind: str) -> bool:
    if kind == "csv":  # which begins with anything that is text
        return not start.startswith((*npz.MAGICS, *_PARQUET, b"\x1f\x8b")) and b"\0" not in start
    return start.startswith({"npz": npz.MAGICS, "idx": idx.MAGICS, "parquet": _PARQUET}[kind])
