"""What a process leaves behind when it dies with a job: a note, which the process that takes its place reads.

So the job goes on at once, not when its lease runs out, and it is known whether the kernel ended it for want of memory.
The note lies in a nameless file of the worker's parent process, and is gone with it.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from core.errors import CoreError, OutOfMemory
from core.store import leases
from core.store.errors import Fenced, WorkerLost
from core.store.leases import Lease
from worker import memory

_PLACE = "RETROGRAD_WORKER_NOTE"

log = logging.getLogger(__name__)


def provide() -> None:
    """Make the place, in the parent; where the system has none, lost jobs are left to their leases."""
    if hasattr(os, "memfd_create"):
        os.environ[_PLACE] = f"/proc/{os.getpid()}/fd/{os.memfd_create('note')}"


def note(lease: Lease) -> None:
    """Say that this process has a job."""
    _write(json.dumps([str(lease.job_id), lease.epoch, lease.attempt, memory.oom_kills()]))


def erase() -> None:
    """Say that it has none."""
    _write("")


def settle(sessions: sessionmaker[Session], max_attempts: int) -> None:
    """Queue the job again that the process before this one died with, or fail it, if that was its last attempt."""
    if not (text := _read()):
        return
    erase()
    job_id, epoch, attempt, kills_before = json.loads(text)
    kills = memory.oom_kills()
    killed = kills is not None and kills_before is not None and kills > kills_before
    why: CoreError = WorkerLost(max_attempts)
    if killed:
        why = OutOfMemory("the kernel ended the job's process, as there was no memory left")
    try:
        with sessions.begin() as session:
            leases.lose(session, Lease(UUID(job_id), epoch, attempt), max_attempts, why)
    except Fenced:
        return  # it was over, or another worker has it
    except SQLAlchemyError as error:
        log.warning("job %s: lost, and left to its lease: %s", job_id, error)
        return
    log.warning("job %s: its process died%s", job_id, " for want of memory" if killed else "")


def _write(text: str) -> None:
    if place := os.environ.get(_PLACE):
        try:
            Path(place).write_text(text)
        except OSError as error:
            log.warning("no note of the job can be left: %s", error)


def _read() -> str:
    try:
        return Path(os.environ[_PLACE]).read_text()
    except (KeyError, OSError):
        return ""
