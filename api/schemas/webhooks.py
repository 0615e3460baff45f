"""Where the end of a job is told, and what was."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from core.receivers import MAX_URL, checked_secret


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
