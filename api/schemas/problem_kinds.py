"""Kinds of problems that jobs may be about."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class ProblemKindRead(BaseModel):
    """A kind of problem: one that the service knows by itself, or one that an installed package brings."""

    model_config = ConfigDict(populate_by_name=True)

    kind: str = Field(examples=["classifier"], description="what `problem.kind` of a job says")
    name: str | None = Field(description="what `problem.name` says where the kind is plugin; else null")
    package: str | None = Field(description="that brings it; null of those that the service knows by itself")
    version: str | None = Field(description="of the package")
    description: str
    json_schema: dict[str, Any] | None = Field(
        alias="schema", description="JSON Schema of `problem` in a job; null where the kind cannot be used"
    )
    error: str | None = Field(description="why the kind cannot be used, for whoever runs the server")


class ProblemKindList(BaseModel):
    """All of them."""

    data: list[ProblemKindRead]
