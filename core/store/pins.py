"""What a job is about, held while it is created."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from core.datasets import DatasetInfo
from core.programs.manifest import Manifest
from core.spec import JobSpec
from core.store import datasets, programs


class Pinned(NamedTuple):
    """A job that always means the same, and what is known of its uploads."""

    spec: JobSpec  # with their digests
    uploaded: DatasetInfo | None
    program: Manifest | None


def pin(session: Session, project_id: UUID, spec: JobSpec) -> Pinned:
    """The job with the digests of what was uploaded for it, all of which stays until the transaction ends.

    Raises:
        InvalidSpec: not uploaded to this project, or other than the job wants.
    """
    spec, uploaded = datasets.pin(session, project_id, spec)
    spec, program = programs.pin(session, project_id, spec)
    return Pinned(spec, uploaded, program)
