"""What a job has found. The document itself is written as a stream, and never held as one of these."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from api.schemas.fields import ID
from api.schemas.jobs import CertificateRead, LossesRead
from core.store.models import State


class GroupRead(BaseModel):
    """A group of elementary parameters."""

    name: str = Field(examples=["layer_1.weights"])
    shape: list[int]


class LearnedRead(BaseModel):
    """One learned hyperparameter, with what is needed to use it."""

    shape: list[int]
    axes: list[str] = Field(description="what each axis of the values goes along", examples=[["step", "group"]])
    groups: list[str] = Field(description="along the axis group; none where there is no such axis")
    transform: str = Field(description="through which it was learned; values are natural")
    unit: str
    values: Any = Field(
        description="a number, or lists of numbers within lists, as the shape says; null: not finite"
    )


class MeasuredRead(BaseModel):
    """An array that was measured beside."""

    shape: list[int]
    values: Any = Field(description="lists of numbers within lists, as the shape says; null: not finite")


class ResultDocument(BaseModel):
    """The hyperparameters of a job after so many updates."""

    schema_: Literal["retrograd.hyperparameters.v1"] = Field(alias="schema")
    job_id: UUID = Field(examples=[ID])
    state: State
    iteration: int = Field(description="updates that led to these; 0 is the start")
    groups: list[GroupRead]
    hyperparameters: dict[str, LearnedRead]
    fixed: dict[str, Any] = Field(description="where those start that are not learned")
    losses: dict[Literal["initial", "searched", "best", "last"], LossesRead | None]
    certificate: CertificateRead | None
    diagnostics: dict[str, Any] | None = Field(description="the latest up to this iteration")
    provenance: dict[str, Any] | None
    measured: dict[str, MeasuredRead]
