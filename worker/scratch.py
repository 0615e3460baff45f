"""Folders of jobs where a worker keeps how far it is within a meta-iteration.

A job that is given back, lost or failed leaves its folder, as it may go on here; what nobody comes back to is swept.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from pathlib import Path
from uuid import UUID

_DAYS_UNTOUCHED = 7

log = logging.getLogger(__name__)


def folder_for(scratch: Path | None, job_id: UUID) -> Path | None:
    """The job's folder, made if need be; None where nothing is to be kept, or can be."""
    if scratch is None:
        return None
    folder = scratch / str(job_id)
    try:
        _sweep(scratch)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        log.warning("job %s: meta-iterations are not kept in part: %s", job_id, error)
        return None
    return folder


def remove(folder: Path | None) -> None:
    """Of a job that has ended well."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(scratch: Path) -> None:
    oldest = time.time() - _DAYS_UNTOUCHED * 86400
    for folder in scratch.glob("*-*-*-*-*"):
        with contextlib.suppress(FileNotFoundError):  # its owner is at work there
            if max(path.stat().st_mtime for path in (folder, *folder.rglob("*"))) < oldest:
                shutil.rmtree(folder, ignore_errors=True)
