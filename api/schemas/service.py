"""What the service says of itself, and what is wrong with a request."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


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
