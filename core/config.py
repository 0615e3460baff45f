"""Settings: one class, read from the environment (prefix `RETROGRAD_`) and from nowhere else."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.quotas import Quotas

_SHORTEST_TOKEN = 8


class Settings(BaseSettings):
    """Every setting of the service, with its unit in its name or description."""

    model_config = SettingsConfigDict(env_prefix="RETROGRAD_", extra="ignore", frozen=True)

    database_url: str = Field("", description="SQLAlchemy URL, postgresql+psycopg://…")
    broker_url: SecretStr = Field(SecretStr(""), description="Redis-protocol URL, redis://…")
    data: Path | None = Field(None, description="folder of data sets, one sub-folder each (IDX files)")
    bootstrap_api_key: SecretStr | None = Field(
        None, description="an rg_… key that `python -m api.bootstrap` stores (hashed) at first start"
    )
    queue: Literal["cpu", "gpu"] = Field(
        "cpu", description="Celery queue that new jobs go to, and that a worker serves"
    )
    max_body_bytes: int = Field(1 << 20, gt=0, description="largest accepted request body")
    storage_url: str = Field(
        "",
        description="where uploads are kept: a folder, or a URL that fsspec knows, such as s3://bucket/prefix; "
        "the same for API, workers and janitor",
    )
    storage_cache: Path | None = Field(
        None,
        description="folder of a worker's copies of uploaded data, unless they are kept in a folder anyway; "
        "~/.cache/retrograd/blobs unless set",
    )
    storage_cache_bytes: int = Field(4 << 30, gt=0, description="the least recently used copies make room")
    max_upload_bytes: int = Field(256 << 20, gt=0, description="largest accepted upload, as it is sent")
    max_dataset_bytes: int = Field(1 << 30, gt=0, description="largest data set, decompressed")
    max_program_bytes: int = Field(64 << 20, gt=0, description="largest accepted program, as it is sent")
    check_seconds: float = Field(60.0, gt=0, description="that checking a program may take before it is refused")
    check_memory_bytes: int = Field(4 << 30, gt=0, description="memory that checking a program may take")
    max_parameters: int = Field(50_000_000, gt=0, description="elementary parameters of a job's model")
    max_hyperparameters: int = Field(10_000_000, gt=0, description="per job")
    max_snapshot_bytes: int = Field(
        64 << 20,
        gt=0,
        description="hyperparameters of every meta-iteration are kept up to this many bytes a "
        "job; beyond it only initial, best and last",
    )
    plan_seconds: float = Field(60.0, gt=0, description="that a plan (dry_run) may take before it is given up")
    plan_memory_bytes: int = Field(4 << 30, gt=0, description="memory that making a plan may take")
    max_streams: int = Field(100, gt=0, description="event streams that a process of the API holds open at once")
    stream_heartbeat_seconds: float = Field(
        15.0, gt=0, description="between comments that keep an event stream open"
    )
    stream_poll_seconds: float = Field(
        5.0, gt=0, description="after which a stream looks for events by itself, should no notice of one have come"
    )
    lease_seconds: float = Field(45.0, gt=0, description="a worker silent for this long has lost its job")
    heartbeat_seconds: float = Field(10.0, gt=0, description="between renewals of a lease")
    max_attempts: int = Field(3, gt=0, description="attempts without progress before a job is failed")
    retry_seconds: float = Field(
        20.0, ge=0, description="before a job is tried again whose worker failed in a way that nobody foresaw"
    )
    job_memory_bytes: int | None = Field(
        None,
        gt=0,
        description="host memory that a job may take; by default nine tenths of what is free when it starts",
    )
    job_seconds: float | None = Field(
        None, gt=0, description="that a job may take in all its attempts together; no limit by default"
    )
    stalled_seconds: float = Field(
        6 * 3600.0,
        ge=0,
        description="a job whose computation gives no sign of life for this long is taken from its worker's process, "
        "which is replaced; 0: never",
    )
    worker_memory_bytes: int = Field(
        2 << 30,
        gt=0,
        description="a worker's process that holds more than this after a job drops its compiled programs; with twice "
        "as much it is replaced",
    )
    scratch: Path | None = Field(
        None,
        description="folder where a worker keeps how far it is within a meta-iteration, of jobs whose training has "
        "checkpoints; unless set it begins a meta-iteration anew after it was lost",
    )
    retention_days: float | None = Field(
        None, gt=0, description="ended jobs older than this are deleted; by default they stay"
    )
    quota_queued_jobs: int = Field(100_000, ge=0, description="of a project, unless it has a quota of its own")
    quota_running_jobs: int = Field(1_000, ge=0, description="of a project at once; more wait")
    quota_stored_bytes: int = Field(
        1 << 40, ge=0, description="of a project's learned values, data sets and programs"
    )
    quota_device_seconds_per_day: int = Field(
        100 * 86_400, ge=0, description="of a project's jobs together, from midnight to midnight UTC"
    )
    rate_limit_reads: str = Field(
        "1000 per 10 seconds", description="GETs of one API key, on all processes together; empty: no limit"
    )
    rate_limit_writes: str = Field(
        "300 per 10 seconds",
        description="other requests of one API key, on all processes together; empty: no limit",
    )
    rate_limit_strangers: str = Field(
        "100 per 10 seconds",
        description="requests of one address without a key of ours, on one process; empty: no limit",
    )
    metrics_token: SecretStr = Field(
        SecretStr(""),
        description="bearer token of GET /metrics, eight characters or more; without it there is no /metrics",
    )
    janitor_seconds: float = Field(1.0, gt=0, description="between the janitor's rounds")
    republish_seconds: float = Field(30.0, gt=0, description="a job queued this long is published again")
    webhook_allow_private: bool = Field(
        False,
        description="webhooks may be sent to addresses that are not public, and without TLS; for receivers on "
        "one's own network. API and janitor both need it",
    )
    mlflow_tracking_uri: str = Field(
        "",
        description="MLflow's tracking server, http(s)://…, or a store as MLflow names it: every end of a job is "
        "written there as a run. Only the janitor needs it, and the extra mlflow",
    )
    mlflow_experiment: str = Field("retrograd", min_length=1, description="of these runs; made if there is none")

    @field_validator("metrics_token")
    @classmethod
    def _not_guessed(cls, token: SecretStr) -> SecretStr:
        if 0 < len(token.get_secret_value()) < _SHORTEST_TOKEN:
            raise ValueError(f"is shorter than {_SHORTEST_TOKEN} characters; make it long and random")
        return token

    @property
    def quotas(self) -> Quotas:
        """Of projects that have none of their own."""
        return Quotas(
            queued_jobs=self.quota_queued_jobs,
            running_jobs=self.quota_running_jobs,
            stored_bytes=self.quota_stored_bytes,
            hyperparameters_per_job=self.max_hyperparameters,
            device_seconds_per_day=self.quota_device_seconds_per_day,
        )

    def complete(self) -> Settings:
        """These settings, for a process that is of no use without database and broker.

        Raises:
            ValueError: one of them is not set.
        """
        for name, value in (
            ("DATABASE_URL", self.database_url),
            ("BROKER_URL", self.broker_url.get_secret_value()),
        ):
            if not value:
                raise ValueError(f"RETROGRAD_{name} is not set; a worker and a janitor need it")
        return self


@lru_cache
def get_settings() -> Settings:
    """The process's settings, read once."""
    return Settings()


def _page() -> str:
    """All settings as a page of Markdown."""
    rows = [
        f"| `RETROGRAD_{name.upper()}` | {_shown(field.get_default())} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(
        (
            "# Settings",
            "",
            "Read from the environment by API, worker and janitor alike; each takes what it needs. In a deployment by",
            "`docker-compose.yml`, write those that it does not name into `retrograd.env` beside it, one a line.",
            "",
            "| setting | default | what it is |",
            "| --- | --- | --- |",
            *rows,
            "",
            "Made by `python -m core.config`.",
        )
    )


def _shown(default: object) -> str:
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    return "" if default in (None, "") else f"`{str(default).lower() if isinstance(default, bool) else default}`"


if __name__ == "__main__":
    sys.stdout.write(_page() + "\n")
