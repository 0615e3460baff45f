"""Tables are read by a child process: a parser that takes too much, or dies, takes nothing with it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from core.errors import DatasetTooLarge, InvalidDataset
from core.uploads.canonical import Canonical
from core.uploads.roles import Roles

SECONDS = 300
MEMORY_BYTES = 1 << 30

_PROGRAM = "core.uploads.child"
_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")
_PASSED_ON_BEGINNINGS = ("PYTHON", "LC_", "LD_", "OPENBLAS_", "OMP_")  # and so no secret


def normalise(
    file: BinaryIO,
    kind: str,
    roles: Roles,
    to: BinaryIO,
    max_bytes: int,
    *,
    seconds: int = SECONDS,
    memory_bytes: int = MEMORY_BYTES,
) -> Canonical:
    """Check a table and write it to `to`, a file at its start, in canonical form.

    Raises:
        InvalidDataset: damaged, contradictory, or with values that cannot be learned from.
        DatasetTooLarge: more than `max_bytes`, or it takes too long or too much memory to read.
        OSError: there is no room for it here.
    """
    with _with_descriptor(file) as given:
        given.seek(0)
        to.flush()
        started = [
            sys.executable,
            "-m",
            _PROGRAM,
            "--kind",
            kind,
            "--from",
            str(given.fileno()),
            "--to",
            str(to.fileno()),
        ]
        for name, value in (("seconds", seconds), ("memory-bytes", memory_bytes), ("max-bytes", max_bytes)):
            started += [f"--{name}", str(value)]
        done = subprocess.run(
            started,
            input=roles.model_dump_json().encode(),
            capture_output=True,
            pass_fds=(given.fileno(), to.fileno()),
            env=_environment(),
            check=False,
        )
    if done.returncode in (
        -signal.SIGALRM,
        -signal.SIGXCPU,
        -signal.SIGKILL,
    ):  # the last, where it ignored the others
        raise DatasetTooLarge(f"file: takes more than {seconds} s to read; send fewer rows or columns")
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise InvalidDataset(
            f"file: its reader was ended by {name}; the file is damaged: save it again, or send CSV"
        )
    if done.returncode:
        raise RuntimeError(f"{_PROGRAM} failed: {done.stderr.decode(errors='replace')[-4000:]}")
    return _checked(json.loads(done.stdout), to)


@contextmanager
def _with_descriptor(file: BinaryIO) -> Iterator[BinaryIO]:
    """The file itself, or a copy of one that is in memory."""
    try:
        file.fileno()
    except (OSError, AttributeError):
        file.seek(0)
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy)
            copy.flush()
            yield cast(BinaryIO, copy)
    else:
        yield file


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith(_PASSED_ON_BEGINNINGS)
    }


def _checked(document: dict[str, Any], to: BinaryIO) -> Canonical:
    """What the child says. The storage will take the digest anew: the child has read what nobody trusts."""
    if (error := document.get("error")) is not None:
        kinds: dict[str, type[Exception]] = {one.code: one for one in (InvalidDataset, DatasetTooLarge)}
        raise kinds.get(error["code"], OSError)(error["message"])
    found = Canonical(**document["found"])
    if to.seek(0, 2) != found.size:
        raise RuntimeError(f"{_PROGRAM} wrote other bytes than it says")
    return found
