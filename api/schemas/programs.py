"""Exported programs."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

from api.schemas.fields import Number
from api.schemas.uploads import ArrayRead, UploadRead, columns
from core.store.models import Program
from core.store.uploads import Stored


class LeafRead(ArrayRead):
    """An array with a name."""

    name: str


class ScheduleRead(BaseModel):
    """What the schedule gives the optimizer under one name."""

    name: str = Field(examples=["step_size"])
    by_weight: bool = Field(description="an array for each of the parameters; else there is one")
    arrays: list[ArrayRead]
    reads: list[str] = Field(description="hyperparameters that it depends on")


class ProbeRead(BaseModel):
    """Losses after a few steps from the program's own hyperparameters, on made-up data, when it was checked."""

    inner_loss: Number
    outer_loss: Number


class ProgramSummary(UploadRead):
    """A program in a list."""

    id: str = Field(examples=["pr_0123456789abcdef01234567"])
    sha256: str = Field(description="of the file")

    @classmethod
    def of(cls, stored: Stored[Program]) -> ProgramSummary:
        """What a list shows of it."""
        return cls.model_validate(columns(stored))


class ProgramRead(ProgramSummary):
    """A program in full: what its functions take and return, and what was found when it was checked."""

    num_steps: int = Field(description="of one training run, as `training.num_steps` must say")
    params: list[LeafRead] = Field(description="elementary parameters, in the order of their groups")
    hyper: list[LeafRead] = Field(description="hyperparameters, which jobs learn on their raw values")
    data: dict[str, list[LeafRead]] = Field(description="data sets that it takes, by name: their arrays")
    schedule: list[ScheduleRead]
    metrics: list[str] = Field(description="what it measures beside its losses")
    num_params: int = Field(description="elementary parameters")
    num_hyperparameters: int = Field(description="numbers that a job learns of all of them")
    platforms: list[str] = Field(examples=[["cpu", "cuda"]])
    jax_version: str = Field(description="that it was exported by")
    stablehlo_ops: list[str] = Field(description="operations that its functions are made of")
    custom_calls: list[str] = Field(description="routines that they call beside these; all are known")
    deterministic: bool = Field(description="the same bits twice")
    probe: ProbeRead

    @classmethod
    def read(cls, stored: Stored[Program]) -> Self:
        """The row, and what was found when it was sent."""
        found = stored.row.summary
        return cls.model_validate(found["manifest"] | found | columns(stored))


class ProgramPage(BaseModel):
    """Programs, newest first."""

    data: list[ProgramSummary]
    next: str | None = Field(description="`after` of the next page; null on the last one")
