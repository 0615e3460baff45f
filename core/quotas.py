"""How much a project may have and use."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_Limit = Annotated[int, Field(ge=0, lt=2**53)]  # what every JSON reader keeps


class Quotas(BaseModel):
    """The limits of one project, each the most that is allowed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    queued_jobs: _Limit
    running_jobs: _Limit
    stored_bytes: _Limit
    hyperparameters_per_job: _Limit
    device_seconds_per_day: _Limit
