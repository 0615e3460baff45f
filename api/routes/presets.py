"""Presets: complete specifications, ready to be posted back."""

from __future__ import annotations

from fastapi import APIRouter

from api.deps import ProjectDep
from api.schemas.presets import PresetList, PresetSummary
from core import presets
from core.spec import JobSpec

router = APIRouter(prefix="/v1/presets", tags=["presets"])


@router.get("", summary="List presets")
def list_presets(project: ProjectDep) -> PresetList:
    """Names to give to `POST /v1/jobs?preset=`."""
    return PresetList(
        data=[PresetSummary(name=name, sha256=presets.get(name).sha256()) for name in presets.names()]
    )


@router.get("/{name}", summary="Get a preset")
def get_preset(name: str, project: ProjectDep) -> JobSpec:
    """The preset's specification."""
    return presets.get(name)
