"""What all that is uploaded has in common."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from core.store.uploads import Stored


class ArrayRead(BaseModel):
    """What an array is."""

    shape: list[int]
    dtype: str


class UploadRead(BaseModel):
    """An upload: its row."""

    id: str
    name: str
    created_at: datetime
    sha256: str
    bytes: int = Field(description="that it takes")


def columns(stored: Stored[Any]) -> dict[str, Any]:
    """The fields of `UploadRead`."""
    row = stored.row
    shown = {"id": row.id, "name": row.name, "created_at": row.created_at, "sha256": row.sha256}
    return shown | {"bytes": stored.size}
