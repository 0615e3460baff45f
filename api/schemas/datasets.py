"""Uploaded data."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from core.store.models import Dataset
from core.store.uploads import Stored


class ArrayRead(BaseModel):
    """What an array of a data set is."""

    shape: list[int]
    dtype: str


class DatasetRead(BaseModel):
    """An uploaded data set."""

    id: str = Field(examples=["ds_0123456789abcdef01234567"])
    name: str
    created_at: datetime
    sha256: str = Field(description="of the data in the form in which they are kept; as in a result's provenance")
    bytes: int = Field(description="that they take")
    inputs: ArrayRead
    labels: ArrayRead
    class_counts: list[int] = Field(description="examples of each class, from 0")
    scale: float = Field(description="what inputs are divided by before training")

    @classmethod
    def of(cls, stored: Stored[Dataset]) -> DatasetRead:
        """The row, and what was found when it was uploaded."""
        row = stored.row
        shown = {"id": row.id, "name": row.name, "created_at": row.created_at, "sha256": row.sha256}
        return cls.model_validate(shown | {"bytes": stored.size} | row.summary)


class DatasetPage(BaseModel):
    """Data sets, newest first."""

    data: list[DatasetRead]
    next: str | None = Field(description="`after` of the next page; null on the last one")
