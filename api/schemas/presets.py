"""Jobs that are ready to be posted."""

from __future__ import annotations

from pydantic import BaseModel, Field


class PresetSummary(BaseModel):
    """A preset in a list."""

    name: str
    sha256: str = Field(description="of its specification, as in a job's spec_sha256")


class PresetList(BaseModel):
    """All presets."""

    data: list[PresetSummary]
