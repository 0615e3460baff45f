"""Versions of a job, as HTTP has them: whoever names the one that he has is spared the rest."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header

from api.parameters import Absent
from core.store.models import ENDED, Job

_POLL_SECONDS = "2"

KnownVersion = Annotated[
    str | Absent, Header(alias="If-None-Match", description="`ETag` of the version that is known")
]


def of(job: Job) -> str:
    """The job's version. Weak: the same facts, though a later release may write them otherwise.

    All that shows of a job changes together with an event, so the number of its latest one tells its versions apart.
    """
    return f'W/"{job.id.hex}-{job.last_event}"'


def is_among(etag: str, if_none_match: str | None) -> bool:
    """Whether the client has this version already, by the header `If-None-Match`."""
    if if_none_match is None:
        return False
    known = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return known == ["*"] or etag.removeprefix("W/") in known


def headers(job: Job) -> dict[str, str]:
    """Of an answer that shows the job, or what it has found: kept by who asks, but asked for each time."""
    known = {"ETag": of(job), "Cache-Control": "private, no-cache"}
    return known if job.state in ENDED else known | {"Retry-After": _POLL_SECONDS}
