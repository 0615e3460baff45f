"""What the API answers with. Numbers that are not finite are shown as null, as JSON has no word for them."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from core.quotas import Quotas
from core.receivers import MAX_URL, checked_secret
from core.spec import JobSpec
from core.store.datasets import Stored
from core.store.events import Kind
from core.store.keys import Scope
from core.store.models import ApiKey, Job, MetaIteration, State, Webhook
from core.store.quotas import Used

_ID = "0198c0de-0000-7000-8000-000000000000"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]


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


def _signing(value: Any) -> Any:
    """In our own words: Pydantic's would show the secret."""
    return checked_secret(value if isinstance(value, str) else "")


class WebhookRequest(BaseModel):
    """Where to tell the end of a job."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(
        max_length=MAX_URL,
        description="https, on a public address; redirects are not followed",
        json_schema_extra={"format": "uri"},
        examples=["https://example.com/hook"],
    )
    secret: Annotated[str, BeforeValidator(_signing)] | None = Field(
        None, description="signs what is sent: whsec_ and 24 to 64 bytes in base64. One is made unless given"
    )


class JobRequest(JobSpec):
    """A job's specification, and what to do beside it, which decides nothing about its result."""

    webhook: WebhookRequest | None = None

    def spec(self) -> JobSpec:
        """The specification alone."""
        fields = {name: getattr(self, name) for name in JobSpec.model_fields}
        return JobSpec.model_construct(_fields_set=self.model_fields_set & fields.keys(), **fields)


class WebhookRead(BaseModel):
    """Where the end of a job is told."""

    model_config = ConfigDict(from_attributes=True)

    url: str
    disabled_at: datetime | None = Field(description="since when its receiver wants no more: it answered 410")


class WebhookCreated(WebhookRead):
    """The same, in the answer to its creation."""

    secret: str = Field(description="what signs deliveries; shown this once")


class DeliveryRead(BaseModel):
    """One message to a webhook."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID = Field(description="the header webhook-id, the same at every attempt")
    kind: str = Field(examples=["job.succeeded"])
    attempt: int = Field(description="attempts begun")
    next_attempt_at: datetime | None = Field(
        description="null: none will follow. While one is under way, when it would be given up for lost"
    )
    delivered_at: datetime | None
    last_error: str | None
    created_at: datetime


class DeliveryList(BaseModel):
    """The newest hundred deliveries of a job, newest first."""

    data: list[DeliveryRead]


class JobSummary(BaseModel):
    """A job in a list."""

    id: UUID = Field(examples=[_ID])
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


class EngineForetold(BaseModel):
    """What a job would take with one engine. Null where a short probe of it failed."""

    name: str
    fits: bool = Field(description="into the memory that is free on the machine that made the plan")
    seconds: Number = Field(description="of one hypergradient, its programs compiled before")
    job_seconds: Number = Field(
        description="of all hypergradients of the job; compilation and trainings come on top"
    )
    device_bytes: int | None = Field(description="that one hypergradient needs at most")
    host_bytes: int | None
    remark: str = Field(description="why there is no prediction")


class PlanRead(BaseModel):
    """What a job would take. Nothing was created."""

    preset: str | None
    spec_sha256: str
    num_hyperparameters: int
    num_iterations: int = Field(description="meta-iterations; a stop rule may end the job earlier")
    hypergradients: int = Field(description="in all of them")
    trainings: int = Field(
        description="without a gradient, for evaluation and search, at most; each takes less than a hypergradient"
    )
    engine: str = Field(description="that the job would take")
    fallback: str | None = Field(description="that it turns to where that one's gradient cannot be proven")
    engines: list[EngineForetold] = Field(description="the job's first, then those that it could name instead")
    machine: str = Field(
        description="where seconds were measured and memory looked at: the processor of the API, which need not be "
        "that of the worker that will run the job"
    )


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
    def of(cls, stored: Stored) -> DatasetRead:
        """The row, and what was found when it was uploaded."""
        row = stored.dataset
        shown = {"id": row.id, "name": row.name, "created_at": row.created_at, "sha256": row.sha256}
        return cls.model_validate(shown | {"bytes": stored.size} | row.summary)


class DatasetPage(BaseModel):
    """Data sets, newest first."""

    data: list[DatasetRead]
    next: str | None = Field(description="`after` of the next page; null on the last one")


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


class PresetSummary(BaseModel):
    """A preset in a list."""

    name: str
    sha256: str = Field(description="of its specification, as in a job's spec_sha256")


class PresetList(BaseModel):
    """All presets."""

    data: list[PresetSummary]


class KeyCreate(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        "", max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$", description="to tell it apart; no control characters"
    )
    scopes: list[Scope] = Field(
        min_length=1,
        max_length=len(Scope),
        description="read: look; write: change, without read; admin: both, and keys",
        examples=[["read", "write"]],
    )


class KeyRead(BaseModel):
    """A key, but for itself: only its digest is kept."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID = Field(examples=[_ID])
    prefix: str = Field(description="what it begins with", examples=["rg_Dk3v0a"])
    name: str
    scopes: list[Scope]
    created_at: datetime
    last_used_at: datetime | None = Field(description="to the minute")
    revoked_at: datetime | None

    @classmethod
    def of(cls, row: ApiKey) -> KeyRead:
        """The row as it is."""
        return cls.model_validate(row)


class KeyCreated(KeyRead):
    """A new key."""

    key: str = Field(description="to be sent as Authorization: Bearer; it is never shown again")


class KeyList(BaseModel):
    """Keys of a project: those in force, then the last ones revoked, each newest first."""

    data: list[KeyRead]


class QuotaRead(BaseModel):
    """A quota, and what is used of it."""

    limit: int
    used: Number = Field(description="null where it is one of each job")


class ProjectRead(BaseModel):
    """A project, and how much it may have."""

    name: str
    quotas: dict[
        Literal[
            "queued_jobs", "running_jobs", "stored_bytes", "hyperparameters_per_job", "device_seconds_per_day"
        ],
        QuotaRead,
    ]

    @classmethod
    def of(cls, name: str, quotas: Quotas, used: Used) -> ProjectRead:
        """What there is to say about the project."""
        now = used._asdict()
        rows = {quota: {"limit": limit, "used": now.get(quota)} for quota, limit in quotas.model_dump().items()}
        return cls.model_validate({"name": name, "quotas": rows})


class Readiness(BaseModel):
    """Whether jobs can be accepted (ok, degraded) or not (unavailable), and what is amiss."""

    status: Literal["ok", "degraded", "unavailable"]
    checks: dict[Literal["database", "migrations", "broker"], str]


class Problem(BaseModel):
    """An error, after RFC 9457."""

    type: str = "about:blank"
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    code: str = Field(description="stable; programs may match on it", examples=["invalid_spec"])
    detail: str
    errors: list[dict[str, Any]] | None = Field(
        None,
        description="what is wrong in the body, field by field",
        examples=[[{"loc": ["training", "num_steps"], "msg": "must be greater than 0, not 0"}]],
    )


def _progress(job: Job) -> Progress:
    left = job.num_iterations - job.meta_iteration
    known = job.state == State.RUNNING and job.seconds_per_iteration is not None
    eta = left * job.seconds_per_iteration if known and job.seconds_per_iteration is not None else None
    return Progress(meta_iteration=job.meta_iteration, of=job.num_iterations, eta_seconds=eta)
