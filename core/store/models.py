"""The tables. Every constraint has a name; rows change only in the modules beside this one."""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    DateTime,
    Double,
    Enum,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class State(StrEnum):
    """Where a job stands. Succeeded, failed and cancelled are ends; only a retry leaves the last two."""

    QUEUED = "queued"  # waits for a worker
    RUNNING = "running"  # a worker holds its lease
    PAUSED = "paused"  # waits for its owner
    SUCCEEDED = "succeeded"  # all meta-iterations done and evaluated
    FAILED = "failed"  # an error ended it; `error` says which
    CANCELLED = "cancelled"  # its owner ended it


ENDED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)
UNENDED = (State.QUEUED, State.RUNNING, State.PAUSED)


class Base(DeclarativeBase):
    """Naming rules for constraints, and the columns that Python types stand for."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own idiom
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(none_as_null=True),
        list[dict[str, Any]]: JSONB(none_as_null=True),
        list[int]: ARRAY(BigInteger),
        bytes: LargeBinary,
        float: Double,
        str: Text,
    }


class Project(Base):
    """Whose jobs and keys belong together."""

    __tablename__ = "projects"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str] = mapped_column(unique=True)
    quotas: Mapped[dict[str, Any] | None]  # where they differ from those of the settings, by name
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class ApiKey(Base):
    """A key's digest. The key itself is shown once, to whom it is given."""

    __tablename__ = "api_keys"
    __table_args__ = (CheckConstraint("octet_length(sha256) = 32", name="sha256_length"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(server_default="")
    prefix: Mapped[str] = mapped_column(index=True)  # tells keys apart in lists
    sha256: Mapped[bytes] = mapped_column(unique=True)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{read,write,admin}'"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    last_used_at: Mapped[datetime | None]  # to the minute
    revoked_at: Mapped[datetime | None]


class Usage(Base):
    """What a project has used on one day, in UTC."""

    __tablename__ = "usage"

    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    device_seconds: Mapped[float] = mapped_column(default=0.0)


class Tally(Base):
    """What a project holds now: the sum of its rows. Kept by triggers on `jobs`, `datasets` and `programs`.

    In several rows, so that transactions of one project do not wait for each other.
    """

    __tablename__ = "tallies"

    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    shard: Mapped[int] = mapped_column(primary_key=True)
    queued_jobs: Mapped[int] = mapped_column(BigInteger)
    running_jobs: Mapped[int] = mapped_column(BigInteger)
    stored_bytes: Mapped[int] = mapped_column(BigInteger)  # of jobs (`Job.stored_bytes`) and of uploads


class Job(Base):
    """One meta-optimization. Its state changes only in `store.jobs` and `store.leases`."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("attempt >= 0", name="attempt_not_negative"),
        CheckConstraint("attempts_without_progress >= 0", name="attempts_without_progress_not_negative"),
        CheckConstraint("lease_epoch >= 0", name="lease_epoch_not_negative"),
        CheckConstraint("last_event >= 0", name="last_event_not_negative"),
        CheckConstraint("meta_iteration BETWEEN 0 AND num_iterations", name="meta_iteration_in_range"),
        CheckConstraint("(state = 'running') = (lease_expires_at IS NOT NULL)", name="leased_while_running"),
        CheckConstraint("(state = 'failed') = (error IS NOT NULL)", name="error_when_failed"),
        CheckConstraint(
            "(state IN ('succeeded', 'failed', 'cancelled')) = (ended_at IS NOT NULL)",
            name="ended_at_when_ended",
        ),
        Index(
            "ix_jobs_project_id_created_at_id",
            "project_id",
            "created_at",
            "id",
            postgresql_include=["name", "state", "preset"],  # a search reads no rows but those that it finds
        ),
        Index("ix_jobs_project_id_state_created_at_id", "project_id", "state", "created_at", "id"),
        Index("ix_jobs_project_id_preset_created_at_id", "project_id", "preset", "created_at", "id"),
        Index(
            "ix_jobs_project_id_preset_state_created_at_id", "project_id", "preset", "state", "created_at", "id"
        ),
        Index(
            "ix_jobs_unended",
            "project_id",
            "state",
            postgresql_where="state IN ('queued', 'running', 'paused')",
        ),
        Index("ix_jobs_ended", "ended_at", postgresql_where="ended_at IS NOT NULL"),
        Index("ix_jobs_dataset_id", "dataset_id", postgresql_where="dataset_id IS NOT NULL"),
        Index("ix_jobs_program_id", "program_id", postgresql_where="program_id IS NOT NULL"),
        Index("ix_jobs_running", "lease_expires_at", postgresql_where="state = 'running'"),
        Index("ix_jobs_queued", "queue", "published_at", postgresql_where="state = 'queued' AND NOT held"),
        Index("ix_jobs_held", "project_id", "queue", postgresql_where="state = 'queued' AND held"),
        Index("ix_jobs_waiting", "project_id", "queue", "held", "created_at", postgresql_where="state = 'queued'"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    name: Mapped[str]
    preset: Mapped[str | None]
    spec: Mapped[dict[str, Any]]
    spec_sha256: Mapped[str]
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id", ondelete="SET NULL"))  # uploaded
    program_id: Mapped[str | None] = mapped_column(ForeignKey("programs.id", ondelete="SET NULL"))
    queue: Mapped[str]

    state: Mapped[State] = mapped_column(
        Enum(
            State,
            native_enum=False,
            length=16,
            create_constraint=True,
            name="state",
            values_callable=lambda states: [state.value for state in states],
        ),
        default=State.QUEUED,
    )
    held: Mapped[bool] = mapped_column(default=False, server_default=false())  # while queued: back by a quota
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    pause_requested: Mapped[bool] = mapped_column(default=False, server_default=false())
    error: Mapped[dict[str, Any] | None]  # code, message, details

    attempt: Mapped[int] = mapped_column(default=0)  # times a worker has taken it
    attempts_without_progress: Mapped[int] = mapped_column(default=0)  # since its last meta-iteration
    lease_epoch: Mapped[int] = mapped_column(BigInteger, default=0)  # only grows; fences off former holders
    lease_expires_at: Mapped[datetime | None]

    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    published_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())  # latest wake-up
    started_at: Mapped[datetime | None]
    last_progress_at: Mapped[datetime | None]  # apart from the lease: a hung computation still renews that
    ended_at: Mapped[datetime | None]

    last_event: Mapped[int] = mapped_column(
        BigInteger, default=0, server_default="0"
    )  # grows whenever what shows does
    accounted_at: Mapped[datetime | None]  # until when its time on a device has been counted, once it has run
    device_seconds: Mapped[float] = mapped_column(default=0.0, server_default="0")

    groups: Mapped[list[dict[str, Any]]]  # name and shape: needed to read the values, when the data are gone too
    num_hyperparameters: Mapped[int] = mapped_column(BigInteger)
    num_iterations: Mapped[int]
    keeps_every_iteration: Mapped[bool]  # else initial, best and last values only
    stored_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")  # that it may come to
    meta_iteration: Mapped[int] = mapped_column(default=0)  # number done
    seconds_per_iteration: Mapped[float | None]
    latest_outer_loss: Mapped[float | None]
    best_outer_loss: Mapped[float | None]
    best_iteration: Mapped[int | None]
    losses: Mapped[dict[str, Any]] = mapped_column(default=dict)  # initial, best, last; on evaluation seeds
    certificate: Mapped[dict[str, Any] | None]  # of all meta-iterations together
    provenance: Mapped[dict[str, Any] | None]
    device: Mapped[str | None]


class JobData(Base):
    """Uploaded data of a job whose program takes some, by the name that the program has for them."""

    __tablename__ = "job_data"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"), index=True)


class MetaIteration(Base):
    """Losses, norm, certificate and diagnostics at the values before one update."""

    __tablename__ = "iterations"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    iteration: Mapped[int] = mapped_column(primary_key=True)
    outer_loss: Mapped[float]  # may be NaN: a double keeps it, JSON shows null
    train_loss: Mapped[float]
    valid_loss: Mapped[float]
    test_loss: Mapped[float]
    hypergradient_norm: Mapped[float]
    seconds: Mapped[float]
    certificate: Mapped[dict[str, Any]]
    diagnostics: Mapped[dict[str, Any] | None]  # where some were due
    attempt: Mapped[int]
    lease_epoch: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class ArrayColumns:
    """An array as its raw little-endian bytes in C order."""

    shape: Mapped[list[int]]
    dtype: Mapped[str] = mapped_column(String(8))  # NumPy's name, such as <f8
    data: Mapped[bytes]


class LearnedValue(ArrayColumns, Base):
    """One hyperparameter, unconstrained, after `iteration` updates; 0 is the initial point."""

    __tablename__ = "learned_values"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    iteration: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)


class MeasuredArray(ArrayColumns, Base):
    """What a job measured beside what it learned, by name."""

    __tablename__ = "measured_arrays"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)


class SavedTrial(Base):
    """One training run of the search before the descent."""

    __tablename__ = "trials"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    values: Mapped[dict[str, Any]]  # unconstrained, by hyperparameter
    outer_loss: Mapped[float | None]  # none where training diverged


class SavedCheckpoint(Base):
    """Where to go on. Its values are the `learned_values` of its iteration; the best one stands in the job."""

    __tablename__ = "checkpoints"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    iteration: Mapped[int]
    first_norm: Mapped[float | None]
    stopped: Mapped[bool]


class OptimizerLeaf(ArrayColumns, Base):
    """One leaf of the outer optimizer's state at the checkpoint."""

    __tablename__ = "optimizer_leaves"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("checkpoints.job_id", ondelete="CASCADE"), primary_key=True)
    leaf: Mapped[int] = mapped_column(primary_key=True)


class Event(Base):
    """What happened to a job, numbered 1, 2, … in the order of its transactions: `Job.last_event` counts them."""

    __tablename__ = "events"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    kind: Mapped[str]
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class IdempotencyKey(Base):
    """A creation that must not happen twice."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_created_at", "created_at"),)

    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[bytes]
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"), index=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Webhook(Base):
    """Where a job's end is told."""

    __tablename__ = "webhooks"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    url: Mapped[str]
    secret: Mapped[str]  # needed in the clear to sign; never shown
    disabled_at: Mapped[datetime | None]  # its receiver answered 410


class Delivery(Base):
    """One message to a webhook, until it is received or given up."""

    __tablename__ = "deliveries"
    __table_args__ = (
        Index("ix_deliveries_due", "next_attempt_at", postgresql_where="next_attempt_at IS NOT NULL"),
        Index("ix_deliveries_job_id", "job_id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("webhooks.job_id", ondelete="CASCADE"))
    kind: Mapped[str]  # such as job.succeeded
    payload: Mapped[str]  # JSON, the same at every attempt
    attempt: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime | None] = mapped_column(
        server_default=func.clock_timestamp()
    )  # none: settled
    delivered_at: Mapped[datetime | None]
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class TrackedEnd(Base):
    """One end of a job, until it is a run on a tracking server."""

    __tablename__ = "tracked_ends"
    __table_args__ = (
        Index("ix_tracked_ends_due", "next_attempt_at", postgresql_where="next_attempt_at IS NOT NULL"),
    )

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    event: Mapped[int] = mapped_column(BigInteger, primary_key=True)  # number of the one that tells of this end
    attempt: Mapped[int] = mapped_column(default=0, server_default="0")
    next_attempt_at: Mapped[datetime | None] = mapped_column(
        server_default=func.clock_timestamp()
    )  # none: it is written
    run_id: Mapped[str | None]  # on the server
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Blob(Base):
    """Stored bytes, known by their SHA-256."""

    __tablename__ = "blobs"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)  # bytes
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class UploadColumns:
    """What a project has uploaded. The same bytes under another name are another row, over the same blob."""

    id: Mapped[str] = mapped_column(primary_key=True)  # two letters of its kind, and chance: ds_…
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    name: Mapped[str]
    sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"), index=True)
    summary: Mapped[dict[str, Any]]  # what was found when it was checked
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Dataset(UploadColumns, Base):
    """A data set."""

    __tablename__ = "datasets"
    __table_args__ = (
        Index("ix_datasets_project_id_created_at_id", "project_id", "created_at", "id"),
        UniqueConstraint("project_id", "sha256", "name"),
    )


class Program(UploadColumns, Base):
    """A problem of a user's own, exported by JAX."""

    __tablename__ = "programs"
    __table_args__ = (
        Index("ix_programs_project_id_created_at_id", "project_id", "created_at", "id"),
        UniqueConstraint("project_id", "sha256", "name"),
    )


class WakeUp(Base):
    """A message about a queued job that is still to be published."""

    __tablename__ = "outbox"
    __table_args__ = (Index("ix_outbox_created_at", "created_at"),)

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    queue: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
