"""Data sets that users send: read with suspicion, and brought to one form that workers read without it.

`npz` and `idx` find the two arrays of an upload and check what their headers declare; `arrays` streams them;
`canonical` checks every value and writes the form that is kept. No part holds more than a few megabytes, whatever a
file says of itself.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import BinaryIO

from core.errors import InvalidDataset, UnsupportedDataset
from core.uploads import canonical, idx, npz
from core.uploads.canonical import Canonical

ACCEPTED = "an npz archive as `file`, or IDX files (.gz or not) as `images` and `labels`"
KINDS = ("npz", "idx")

Files = dict[str, BinaryIO]  # by the part of the request that holds them


def normalise(files: Files, kind: str | None, to: BinaryIO, max_bytes: int) -> Canonical:
    """Check an upload and write it to `to` in canonical form.

    Args:
        files: `file`, or `images` and `labels`; seekable.
        kind: npz or idx; None to go by the files.
        to: where the canonical form goes.
        max_bytes: of both arrays, decompressed.

    Raises:
        InvalidDataset: damaged, contradictory, or with values that cannot be learned from; names the entry.
        DatasetTooLarge: more than `max_bytes`, or a decompression bomb.
        UnsupportedDataset: of another kind than these two.
    """
    with ExitStack() as stack:
        match _kind(files, kind):
            case "npz":
                inputs, labels = stack.enter_context(npz.opened(files["file"], max_bytes))
            case _:
                inputs, labels = idx.opened(files["images"], files["labels"], max_bytes)
        return canonical.write(inputs, labels, to)


def _kind(files: Files, asked: str | None) -> str:
    if asked is not None and asked not in KINDS:
        raise UnsupportedDataset(f"no data of kind {asked[:20]!r} are read here; send {ACCEPTED}")
    by_parts = {frozenset({"file"}): "npz", frozenset({"images", "labels"}): "idx"}
    kind = by_parts.get(frozenset(files))
    if kind is None or asked not in (None, kind):
        raise InvalidDataset(f"the parts {sorted(files)} are not a data set; send {ACCEPTED}")
    magics = {"npz": npz.MAGICS, "idx": idx.MAGICS}[kind]
    for name, file in files.items():
        start = file.read(4)
        file.seek(0)
        if not start.startswith(magics):
            raise UnsupportedDataset(f"{name}: begins like no file that is read here; send {ACCEPTED}")
    return kind
