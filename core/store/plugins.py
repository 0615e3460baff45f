"""Installed problems, which jobs run on data sets."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.orm import Session

from core import plugins
from core.hyperparameters import Group
from core.spec import JobSpec
from core.store import datasets


def pin(session: Session, project_id: UUID, spec: JobSpec) -> tuple[JobSpec, tuple[Group, ...] | None]:
    """The job with the version of its installed problem and the digests of its data, and the problem's parameters; as
    it is, where it is about none. The data stay until the transaction ends.

    Raises:
        InvalidSpec: not installed, or of other settings; or data not uploaded to this project, or others than the job
            wants.
        PluginFailed: the package that brings the problem failed.
    """
    if spec.plugin is None:
        return spec, None
    held = datasets.held(session, project_id, spec.plugin)
    described = plugins.describe(spec, {name: datasets.described(dataset) for name, dataset in held.items()})
    digests = {name: dataset.sha256 for name, dataset in held.items()}
    return spec.pinned_own(described.shapes, digests, version=described.version), described.groups
