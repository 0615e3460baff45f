"""What a job leaves as it goes: meta-iterations, events, trials, figures."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.fields import ID, Number
from core.store.events import Kind
from core.store.models import MetaIteration, State


class IterationRead(BaseModel):
    """One meta-iteration, at the hyperparameters before its update."""

    model_config = ConfigDict(from_attributes=True)

    iteration: int
    outer_loss: Number
    train_loss: Number
    valid_loss: Number
    test_loss: Number
    hypergradient_norm: Number
    seconds: float
    certificate: dict[str, Any]
    diagnostics: dict[str, Any] | None = Field(
        description="by measurement, as asked for in the specification; null where none was due"
    )
    attempt: int

    @classmethod
    def of(cls, row: MetaIteration) -> IterationRead:
        """The row as it is."""
        return cls.model_validate(row)


class IterationPage(BaseModel):
    """Meta-iterations in order."""

    data: list[IterationRead]
    next: int | None = Field(description="`after` of the next page; null when there are no more yet")


class CurveColumns(BaseModel):
    """What was measured of meta-iterations, a list for each, all of the same length; null where nothing is known."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, list[float | bool | None]]

    iteration: list[int]
    outer_loss: list[Number]
    train_loss: list[Number]
    valid_loss: list[Number]
    test_loss: list[Number]
    hypergradient_norm: list[Number]
    seconds: list[Number]
    exact: list[bool | None] = Field(description="whether no bit of the recovered start of training differs")
    engine: list[str | None]
    mode: list[str | None]
    mismatched_bits: list[int | None]
    stored_bits_per_param_step: list[Number]
    bound_bits_per_param_step: list[Number]
    attempt: list[int] = Field(description="of the job, in which it was done")


class CurvesRead(BaseModel):
    """All meta-iterations of a job so far, by column."""

    schema_: Literal["retrograd.curves.v1"] = Field(alias="schema")
    job_id: UUID = Field(examples=[ID])
    state: State
    best_iteration: int | None = Field(description="updates that led to the best hyperparameters; 0 is the start")
    rows: int = Field(description="meta-iterations")
    columns: CurveColumns = Field(
        description="those below, and one number of each diagnostic that the specification asks for, such as "
        "`seeds.cosine`"
    )


class EventRead(BaseModel):
    """Something that happened to a job."""

    model_config = ConfigDict(from_attributes=True)

    number: int = Field(description="1, 2, … without gaps")
    kind: Kind
    data: dict[str, Any] = Field(description="particulars, by kind")
    created_at: datetime


class EventPage(BaseModel):
    """Events in order."""

    data: list[EventRead]
    next: int | None = Field(description="`after` of the next page; null when there are no more yet")


class FigureSummary(BaseModel):
    """A figure that can be drawn."""

    name: str = Field(examples=["schedules"])
    title: str
    png: str = Field(description="where it is, relative to the service")
    svg: str


class FigureList(BaseModel):
    """All that can be drawn of a job as far as it has come."""

    data: list[FigureSummary]


class TrialRead(BaseModel):
    """One training run of the search before the descent."""

    number: int
    values: dict[str, Number] = Field(description="natural, one for all of each hyperparameter searched")
    outer_loss: Number = Field(description="null where training diverged")


class TrialList(BaseModel):
    """All trials of a job, in order."""

    data: list[TrialRead]
