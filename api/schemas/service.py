"""What the service says of itself, and what is wrong with a request."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Liveness(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Whether jobs can be accepted (ok, degraded) or not (unavailable), and what is amiss."""

    status: Literal["ok", "degraded", "unavailable"]
    checks: dict[Literal["database", "migrations", "broker"], str]


class FieldError(BaseModel):
    """What is wrong at one place."""

    loc: list[str | int] = Field(
        description="path in the body; for other parts of the request it begins with their name"
    )
    msg: str


class Problem(BaseModel):
    """An error, after RFC 9457. Some have more particulars beside these."""

    type: str = "about:blank"
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    code: str = Field(description="stable; programs may match on it", examples=["invalid_spec"])
    detail: str
    errors: list[FieldError] | None = Field(
        None,
        description="what is wrong in the body, field by field; or with which parameter",
        examples=[[{"loc": ["training", "num_steps"], "msg": "must be greater than 0, not 0"}]],
    )
