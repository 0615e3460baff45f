"""A job as it is asked for, listed and read."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, field_validator

from api.schemas.fields import ID, Number
from api.schemas.names import printable
from api.schemas.webhooks import WebhookCreated, WebhookRead, WebhookRequest
from core.spec import JobSpec
from core.store.models import Job, State, Webhook


class Progress(BaseModel):
    """How far a job has come."""

    meta_iteration: int = Field(description="meta-iterations done")
    of: int = Field(description="meta-iterations asked for; a stop rule may end the job earlier")
    eta_seconds: Number = Field(description="until the last one is done, while the job runs")


class JobError(BaseModel):
    """Why a job failed."""

    code: str = Field(examples=["diverged"])
    message: str
    details: dict[str, Any] = {}


class LossesRead(BaseModel):
    """Mean losses of models trained with the same hyperparameters."""

    model_config = ConfigDict(from_attributes=True)

    outer: Number
    train: Number
    valid: Number
    test: Number
    measures: dict[str, Number] = Field({}, description="by name, such as test_accuracy")


class CertificateRead(BaseModel):
    """What was proven about all hypergradients of a job together: as good as the worst of them."""

    exact: bool = Field(description="every recovered bit of every meta-iteration was compared, and none differed")
    iterations: int
    mismatched_bits: int | None
    stored_bits_per_param_step: Number = Field(description="largest")
    bound_bits_per_param_step: Number = Field(description="largest")
    engine: str | None
    mode: str | None


class JobRequest(JobSpec):
    """A job's specification, and what to do beside it, which decides nothing about its result."""

    webhook: WebhookRequest | None = None

    @field_validator("name")
    @classmethod
    def _is_printable(cls, name: str) -> str:
        return printable(name)

    def spec(self) -> JobSpec:
        """The specification alone."""
        fields = {name: getattr(self, name) for name in JobSpec.model_fields}
        return JobSpec.model_construct(_fields_set=self.model_fields_set & fields.keys(), **fields)


class JobSummary(BaseModel):
    """A job in a list."""

    id: UUID = Field(examples=[ID])
    name: str
    preset: str | None
    state: State
    queue: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    progress: Progress
    latest_outer_loss: Number
    best_outer_loss: Number = Field(description="lowest while learning, each on its own seeds")
    best_iteration: int | None = Field(description="updates that led to the best hyperparameters; 0 is the start")
    num_hyperparameters: int
    error: JobError | None

    @classmethod
    def columns(cls, job: Job) -> dict[str, Any]:
        """Fields that come straight from the job's row."""
        row = {name: getattr(job, name) for name in cls.model_fields if hasattr(job, name)}
        return row | {"progress": _progress(job)}

    @classmethod
    def of(cls, job: Job) -> JobSummary:
        """What a list shows of the job."""
        return cls.model_validate(cls.columns(job))


class JobRead(JobSummary):
    """A job in full."""

    cancel_requested: bool
    pause_requested: bool
    attempt: int = Field(description="times that a worker has taken it")
    device: str | None
    last_progress_at: datetime | None
    losses: dict[Literal["initial", "searched", "best", "last"], LossesRead | None] = Field(
        description="on the same evaluation seeds, so that they can be compared; `searched` is where a warm start led"
    )
    certificate: CertificateRead | None
    provenance: dict[str, Any] | None
    spec: JobSpec
    spec_sha256: str
    webhook: WebhookRead | None

    @classmethod
    def read(cls, job: Job, webhook: Webhook | None) -> Self:
        """All that there is to say about the job."""
        return cls.model_validate(cls.columns(job) | {"webhook": webhook})


class JobCreated(JobRead):
    """A job in full, and what is told of it only once."""

    webhook: WebhookCreated | None


class JobPage(BaseModel):
    """Jobs, newest first."""

    data: list[JobSummary]
    next: str | None = Field(description="`after` of the next page; null on the last one")


class Cancelled(BaseModel):
    """Jobs that were cancelled together."""

    data: list[UUID] = Field(description="those that ended at once, and those whose workers will end them")
    more: bool = Field(description="there are others; call again")


def _progress(job: Job) -> Progress:
    left = job.num_iterations - job.meta_iteration
    known = job.state == State.RUNNING and job.seconds_per_iteration is not None
    eta = left * job.seconds_per_iteration if known and job.seconds_per_iteration is not None else None
    return Progress(meta_iteration=job.meta_iteration, of=job.num_iterations, eta_seconds=eta)
