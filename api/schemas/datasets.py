"""Uploaded data."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, Field

from api.schemas.uploads import ArrayRead, UploadRead, columns
from core.store.models import Dataset
from core.store.uploads import Stored


class TargetRead(BaseModel):
    """Numbers to fit."""

    mean: float
    deviation: float = Field(description="standard deviation")
    min: float
    max: float


class DatasetRead(UploadRead):
    """An uploaded data set."""

    id: str = Field(examples=["ds_0123456789abcdef01234567"])
    sha256: str = Field(description="of the data in the form in which they are kept; as in a result's provenance")
    inputs: ArrayRead
    labels: ArrayRead
    class_counts: list[int] = Field(description="examples of each class, from 0; none, if labels are targets")
    target: TargetRead | None = Field(None, description="of numbers to fit; null, if labels are classes")
    scale: float = Field(description="what inputs are divided by before training")

    @classmethod
    def of(cls, stored: Stored[Dataset]) -> Self:
        """The row, and what was found when it was uploaded."""
        return cls.model_validate(columns(stored) | stored.row.summary)


class CategoryRead(BaseModel):
    """A value of a categorical column."""

    value: str
    rows: int = Field(description="that have it")


class ColumnRead(BaseModel):
    """A column of a table."""

    name: str
    role: Literal["target", "feature", "ignored"]
    type: Literal["number", "category", "class"] | None = Field(description="null, if it was not looked at")
    missing: int | None = Field(description="values that were filled in")
    mean: float | None = None
    deviation: float | None = Field(None, description="standard deviation")
    min: float | None = None
    max: float | None = None
    categories: list[CategoryRead] | None = Field(None, description="its values; each is a feature, in this order")


class TableRead(BaseModel):
    """The table that a data set was made of."""

    classes: list[str] | None = Field(
        description="what classes 0, 1, … are called in it; null where those are its numbers"
    )
    columns: list[ColumnRead] = Field(description="the first 256")
    num_columns: int
    rows: list[list[str]] = Field(
        description="the first five, as they were sent, each of the columns above; values are cut after 40 characters"
    )


class DatasetPreview(DatasetRead):
    """An uploaded data set, and what is in it."""

    table: TableRead | None = Field(None, description="of data that came as a table")


class DatasetPage(BaseModel):
    """Data sets, newest first."""

    data: list[DatasetRead]
    next: str | None = Field(description="`after` of the next page; null on the last one")
