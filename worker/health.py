"""Whether a worker or janitor is alive, for container healthchecks: `python -m worker.health [worker|janitor]`.

Each writes a beat from its own main loop, so that one that hangs there, or waits for a lost server, shows.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path

BEAT_SECONDS = 10.0
_MAX_AGE_SECONDS = 60.0


def beat(role: str) -> None:
    """Say that this process's loop turns. Never fails: health is worth less than work."""
    with contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC  # others may write to the folder
        descriptor = os.open(_path(role), flags, 0o600)
        try:
            os.utime(descriptor)
        finally:
            os.close(descriptor)


def is_alive(role: str) -> bool:
    """Whether there was a beat within the last minute."""
    try:
        status = _path(role).lstat()
    except OSError:
        return False
    return status.st_uid == os.geteuid() and time.time() - status.st_mtime < _MAX_AGE_SECONDS


def _path(role: str) -> Path:
    return Path(tempfile.gettempdir()) / f"retrograd-{os.geteuid()}-{role}.alive"


if __name__ == "__main__":
    sys.exit(0 if is_alive((sys.argv[1:] or ["worker"])[0]) else 1)
