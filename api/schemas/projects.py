"""Keys and quotas."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from api.schemas.fields import ID, Number
from api.schemas.names import printable
from core.quotas import Quotas
from core.store.keys import Scope
from core.store.models import ApiKey
from core.store.quotas import Used


class KeyCreate(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, AfterValidator(printable)] = Field(
        "", max_length=100, description="to tell it apart; printable characters"
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

    id: UUID = Field(examples=[ID])
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
