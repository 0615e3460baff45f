"""What a job is about, held while it is created."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from core.datasets import DatasetInfo
from core.hyperparameters import Group
from core.spec import JobSpec
from core.store import datasets, plugins, programs


class Pinned(NamedTuple):
    """A job that always means the same, and what is known of its uploads."""

    spec: JobSpec  # with their digests
    uploaded: DatasetInfo | None
    own: tuple[Group, ...] | None  # parameters of the program or installed problem


def pin(session: Session, project_id: UUID, spec: JobSpec) -> Pinned:
    """The job with the digests of what was uploaded for it, all of which stays until the transaction ends, and the
    version of the installed problem that it is about.

    Raises:
        InvalidSpec: not uploaded to this project, not installed, or other than the job wants.
        PluginFailed: the package that brings the problem failed.
    """
    spec, uploaded = datasets.pin(session, project_id, spec)
    pin_own = programs.pin if spec.plugin is None else plugins.pin
    spec, own = pin_own(session, project_id, spec)
    return Pinned(spec, uploaded, own)
