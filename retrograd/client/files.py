"""How results become files: whole or not at all, in the form that a file's name says."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

_DEVICES = (Path("/dev"), Path("/dev/fd"))
_PROCESSES = Path("/proc")  # where /dev/stdout leads


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to be written, which becomes `path` once the block has ended well. A regular file there is replaced; a
    device or a pipe stays what it is, and has all written to it then.

    Raises:
        IsADirectoryError: a folder is there.
    """
    if path.is_dir():
        raise IsADirectoryError(21, "Is a directory", str(path))
    if stays(path):
        with tempfile.TemporaryFile() as kept:
            yield cast(BinaryIO, kept)
            kept.seek(0)
            with path.open("wb") as target:
                shutil.copyfileobj(kept, target)
        return
    # a name that nobody can foresee, and no other file is opened by it: what others put there is never followed
    unfinished = path.with_name(f".{secrets.token_hex(8)}.unfinished")
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            yield file
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def stays(path: Path) -> bool:
    """Whether what is there is written to and not replaced, as /dev/stdout is, whatever it leads to."""
    folder = path.parent.resolve()
    return (path.exists() and not path.is_file()) or folder in _DEVICES or folder.is_relative_to(_PROCESSES)


def format_of(path: Path | str, format: str | None, known: Sequence[str]) -> str:
    """The form in which a file is saved: what is asked for, else what its name ends in, else the first one known.

    Raises:
        ValueError: its name says otherwise.
    """
    ending = Path(path).suffix.removeprefix(".").lower()
    if ending not in known:
        return format or known[0]
    if format not in (None, ending):
        raise ValueError(
            f"{Path(path).name} would hold {format} by a name that ends in .{ending}; rename it, or leave format out"
        )
    return ending
