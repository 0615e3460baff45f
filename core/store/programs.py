"""Exported programs, which jobs run on data sets."""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import SelectBase, select
from sqlalchemy.orm import Session

from core.errors import InvalidSpec
from core.hyperparameters import Group
from core.programs.fitting import UPLOADED, check_data, check_fits
from core.programs.manifest import Manifest
from core.spec import JobSpec
from core.store import datasets
from core.store.errors import ProgramInUse, UnknownProgram
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


def pin(session: Session, project_id: UUID, spec: JobSpec) -> tuple[JobSpec, tuple[Group, ...] | None]:
    """The job with the digests of its program and its data, and the parameters of the program; as it is, where it is
    about none.

    All of them stay until the transaction ends.

    Raises:
        InvalidSpec: not uploaded to this project, or others than the job wants; or the job does not fit the program, or
            the data do not.
    """
    wanted = spec.program
    if wanted is None:
        return spec, None
    program = PROGRAMS.held(session, project_id, wanted.id)
    if program is None:
        raise InvalidSpec((("problem", "id"), str(UnknownProgram(wanted.id))))
    if wanted.sha256 not in (None, program.sha256):
        said = f"program {wanted.id} has the SHA-256 {program.sha256}; give that, or leave it out"
        raise InvalidSpec((("problem", "sha256"), said))
    manifest = manifest_of(program)
    check_fits(spec, manifest)
    held = datasets.held(session, project_id, wanted)
    for name, dataset in held.items():
        check_data(name, manifest, {part: _array(dataset.summary[part]) for part in UPLOADED})
    digests = {name: dataset.sha256 for name, dataset in held.items()}
    groups = tuple(Group(leaf.name, leaf.shape) for leaf in manifest.params)
    return spec.pinned_own(manifest.shapes, digests, sha256=program.sha256), groups


def manifest_of(program: Program) -> Manifest:
    """What it says of itself, as it was found to be."""
    return Manifest.model_validate(program.summary["manifest"])


def of_job(session: Session, lease: Lease) -> Digests:
    """What the holder of the lease may fetch."""
    program = select(Program.sha256).join(Job, Job.program_id == Program.id).where(Job.id == lease.job_id)
    data = select(JobData.name, Dataset.sha256).join(Dataset, Dataset.id == JobData.dataset_id)
    found = session.execute(data.where(JobData.job_id == lease.job_id))
    return Digests(session.scalar(program), {row.name: row.sha256 for row in found})


def _array(found: dict[str, Any]) -> tuple[tuple[int, ...], str]:
    return tuple(found["shape"]), found["dtype"]
