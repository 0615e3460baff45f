"""Exported programs, which jobs run on data sets."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from sqlalchemy import SelectBase, select
from sqlalchemy.orm import Session

from core.errors import InvalidSpec
from core.spec import JobSpec
from core.store import datasets
from core.store.errors import ProgramInUse, UnknownProgram, UnknownUpload
from core.store.leases import Lease
from core.store.models import Dataset, Job, JobData, Program
from core.store.uploads import Uploads


class Digests(NamedTuple):
    """Of the bytes that a job is about."""

    program: str | None  # None where it was deleted
    data: dict[str, str]  # by the program's name for them; without those that were deleted


def _used_by(program_id: str) -> SelectBase:
    return select(Job.id).where(Job.program_id == program_id)


PROGRAMS = Uploads(Program, "pr", used_by=_used_by, unknown=UnknownProgram, in_use=ProgramInUse)
add, get, page, remove = PROGRAMS.add, PROGRAMS.get, PROGRAMS.page, PROGRAMS.remove


def of_job(session: Session, lease: Lease) -> Digests:
    """What the holder of the lease may fetch."""
    program = select(Program.sha256).join(Job, Job.program_id == Program.id).where(Job.id == lease.job_id)
    data = select(JobData.name, Dataset.sha256).join(Dataset, Dataset.id == JobData.dataset_id)
    found = session.execute(data.where(JobData.job_id == lease.job_id))
    return Digests(session.scalar(program), {row.name: row.sha256 for row in found})
