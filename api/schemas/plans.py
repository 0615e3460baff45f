"""What a job would take."""

from __future__ import annotations

from pydantic import BaseModel, Field

from api.schemas.fields import Number


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
