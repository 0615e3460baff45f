"""Uploaded data sets."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import SelectBase, select, union
from sqlalchemy.orm import Session

from core.datasets import DatasetInfo, info_of
from core.errors import InvalidSpec
from core.spec import JobSpec, OwnProblem
from core.store.errors import DatasetInUse, UnknownUpload
from core.store.leases import Lease
from core.store.models import Dataset, Job, JobData
from core.store.uploads import Uploads


def _used_by(dataset_id: str) -> SelectBase:
    return union(
        select(Job.id).where(Job.dataset_id == dataset_id),
        select(JobData.job_id).where(JobData.dataset_id == dataset_id),
    )


SETS = Uploads(Dataset, "ds", used_by=_used_by, unknown=UnknownUpload, in_use=DatasetInUse)
add, get, page, remove = SETS.add, SETS.get, SETS.page, SETS.remove


def pin(session: Session, project_id: UUID, spec: JobSpec) -> tuple[JobSpec, DatasetInfo | None]:
    """The job with the digest of its uploaded data, and their sizes; as it is, where it is about others.

    The data set stays until the transaction ends.

    Raises:
        InvalidSpec: not uploaded to this project, or other data than the job wants.
    """
    wanted = spec.uploaded
    if wanted is None:
        return spec, None
    dataset = SETS.held(session, project_id, wanted.id)
    if dataset is None:
        raise InvalidSpec((("problem", "dataset", "id"), str(UnknownUpload(wanted.id))))
    if wanted.sha256 not in (None, dataset.sha256):
        raise _other(("problem", "dataset", "sha256"), dataset)
    return spec.pinned(dataset.sha256), described(dataset)


def held(session: Session, project_id: UUID, problem: OwnProblem) -> dict[str, Dataset]:
    """The data sets that a problem of one's own names, by its names for them; they stay until the transaction ends.

    Raises:
        InvalidSpec: not uploaded to this project, or other data than the job wants.
    """
    found = {}
    for name in sorted(problem.data):
        dataset = SETS.held(session, project_id, problem.data[name])
        if dataset is None:
            raise InvalidSpec((("problem", "data", name), str(UnknownUpload(problem.data[name]))))
        if problem.data_sha256 is not None and problem.data_sha256[name] != dataset.sha256:
            raise _other(("problem", "data_sha256", name), dataset)
        found[name] = dataset
    return found


def described(dataset: Dataset) -> DatasetInfo:
    """Its sizes, as they were found when it was sent."""
    summary = dataset.summary
    return info_of(dataset.id, tuple(summary["inputs"]["shape"]), summary["class_counts"])


def _other(where: tuple[str, ...], dataset: Dataset) -> InvalidSpec:
    said = f"the data of {dataset.id} have the SHA-256 {dataset.sha256}; give that, or leave it out"
    return InvalidSpec((where, said))


def of_job(session: Session, lease: Lease) -> str | None:
    """Digest of the uploaded data that the holder of the lease may learn from; None where they were deleted."""
    query = select(Dataset.sha256).join(Job, Job.dataset_id == Dataset.id).where(Job.id == lease.job_id)
    return session.scalar(query)
