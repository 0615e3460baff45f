"""The project that the caller's key speaks for."""

from __future__ import annotations

from fastapi import APIRouter

from api.deps import ProjectDep, QuotasDep, SessionDep
from api.schemas.projects import ProjectRead
from core.store import keys, quotas

router = APIRouter(prefix="/v1/project", tags=["project"])


@router.get("", summary="Look at one's project")
def get_project(project: ProjectDep, session: SessionDep, limits: QuotasDep) -> ProjectRead:
    """Its quotas, and what is used of each now; of device seconds, since midnight UTC and up to the last heartbeats."""
    return ProjectRead.of(keys.project_name(session, project), limits, quotas.used(session, project))
