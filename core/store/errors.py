"""What can be wrong with a request to the store."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from core.errors import CoreError


class UnknownJob(CoreError):  # noqa: N818 - named for what happened
    """No job of this id in the project."""

    code = "unknown_job"

    def __init__(self, job_id: UUID) -> None:
        super().__init__(f"no job {job_id} in this project; GET /v1/jobs lists those there are")


class StateConflict(CoreError):  # noqa: N818
    """The job's state does not allow this."""

    code = "state_conflict"

    def __init__(self, action: str, state: str, allowed: str) -> None:
        self.state = state
        super().__init__(f"a job that is {state} cannot be {action}; only one that is {allowed}")

    def details(self) -> dict[str, Any]:
        """The state that the job is in."""
        return {"state": self.state}


class UnknownDelivery(CoreError):  # noqa: N818
    """No delivery of this id of the job."""

    code = "unknown_delivery"

    def __init__(self, delivery_id: UUID) -> None:
        super().__init__(f"no delivery {delivery_id} of this job; its `deliveries` lists those there are")


class NothingLearned(CoreError):  # noqa: N818
    """There are no learned hyperparameters yet."""

    code = "nothing_learned"

    def __init__(self, state: str) -> None:
        self.state = state
        remedy = (
            "try again later" if state in ("queued", "running") else "it ended before its first meta-iteration"
        )
        super().__init__(f"the job is {state} and has no learned hyperparameters yet; {remedy}")

    def details(self) -> dict[str, Any]:
        """The state that the job is in."""
        return {"state": self.state}


class UnknownIteration(CoreError):  # noqa: N818
    """The job has not come as far as this meta-iteration."""

    code = "unknown_iteration"

    def __init__(self, iteration: int, done: int) -> None:
        super().__init__(
            f"no iteration {iteration}; this job has 0 (the initial values) to {done} (after the last)"
        )


class Pruned(CoreError):  # noqa: N818
    """The values of this meta-iteration were not kept."""

    code = "pruned"

    def __init__(self, iteration: int, kept: list[int]) -> None:
        self.kept = kept
        super().__init__(
            f"the values of iteration {iteration} were not kept, as all of them would exceed "
            f"RETROGRAD_MAX_SNAPSHOT_BYTES; there are those of {', '.join(map(str, kept))}"
        )

    def details(self) -> dict[str, Any]:
        """The iterations whose values there are."""
        return {"kept": self.kept}


class UnknownUpload(CoreError):  # noqa: N818
    """No uploaded data set of this id in the project."""

    code = "unknown_dataset"

    def __init__(self, dataset_id: str) -> None:
        super().__init__(f"no data set {dataset_id} in this project; GET /v1/datasets lists those there are")


class DatasetDeleted(CoreError):  # noqa: N818
    """What a job was to learn from is no longer there."""

    code = "unknown_dataset"

    def __init__(self, dataset_id: str) -> None:
        super().__init__(f"data set {dataset_id} was deleted; upload the data again, and create a job about them")


class DatasetInUse(CoreError):  # noqa: N818
    """Jobs that have not ended learn from it."""

    code = "dataset_in_use"

    def __init__(self, dataset_id: str, jobs: int) -> None:
        self.jobs = jobs
        super().__init__(
            f"jobs that have not ended, {jobs} of them, learn from data set {dataset_id}; wait for that, or cancel them"
        )

    def details(self) -> dict[str, Any]:
        """How many jobs."""
        return {"jobs": self.jobs}


class UnknownProgram(CoreError):  # noqa: N818
    """No program of this id in the project."""

    code = "unknown_program"

    def __init__(self, program_id: str) -> None:
        super().__init__(f"no program {program_id} in this project; GET /v1/programs lists those there are")


class ProgramDeleted(CoreError):  # noqa: N818
    """What a job was to run is no longer there."""

    code = "unknown_program"

    def __init__(self, program_id: str) -> None:
        super().__init__(f"program {program_id} was deleted; send it again, and create a job about it")


class ProgramInUse(CoreError):  # noqa: N818
    """Jobs that have not ended run it."""

    code = "program_in_use"

    def __init__(self, program_id: str, jobs: int) -> None:
        self.jobs = jobs
        super().__init__(
            f"jobs that have not ended, {jobs} of them, run program {program_id}; wait for that, or cancel them"
        )

    def details(self) -> dict[str, Any]:
        """How many jobs."""
        return {"jobs": self.jobs}


class InvalidCursor(CoreError):  # noqa: N818
    """`after` is not a cursor that a previous page returned."""

    code = "invalid_cursor"

    def __init__(self) -> None:
        super().__init__("after: not a cursor of ours; give the `next` of the page before, or leave it out")


class IdempotencyConflict(CoreError):  # noqa: N818 - named for what happened
    """An idempotency key that another request has."""

    code = "idempotency_conflict"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"the Idempotency-Key {key!r} was sent with another request in the last 24 hours; give each request a key "
            "of its own, and the same request its own again"
        )


class IdempotentJobDeleted(CoreError):  # noqa: N818 - named for what happened
    """The job that was made with an idempotency key is gone."""

    code = "idempotent_job_deleted"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"the job that was made with the Idempotency-Key {key!r} has been deleted; send another key to make it anew"
        )


class InvalidKey(CoreError):  # noqa: N818
    """A string that cannot be an API key."""

    code = "invalid_key"

    def __init__(self) -> None:
        super().__init__(
            "an API key is rg_ followed by 32 to 128 letters, digits, - or _; make one with `new_key`"
        )


class UnknownKey(CoreError):  # noqa: N818
    """No API key of this id in the project."""

    code = "unknown_key"

    def __init__(self, key_id: UUID) -> None:
        super().__init__(f"no API key {key_id} in this project; GET /v1/keys lists those there are")


class LastAdminKey(CoreError):  # noqa: N818
    """Without this key nobody could make another."""

    code = "last_admin_key"

    def __init__(self) -> None:
        super().__init__(
            "this is the only key of the project with the scope admin; create another one before you revoke it"
        )


class TooManyKeys(CoreError):  # noqa: N818
    """The project has as many keys as it may have."""

    code = "too_many_keys"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the project has {limit} API keys, the most there may be; revoke one that is not used")


class QuotaExceeded(CoreError):  # noqa: N818
    """The project has, or would have, more than it may.

    Attributes:
        retry_after: seconds after which it may be otherwise; None where waiting alone does not help.
    """

    code = "quota_exceeded"
    _REMEDIES: ClassVar[dict[str, str]] = {
        "queued_jobs": "wait until some have run, or cancel some",
        "stored_bytes": "delete jobs, data sets or programs that are no longer needed",
        "device_seconds_per_day": "a new day begins at midnight UTC",
    }

    def __init__(
        self, quota: str, limit: int, used: int, *, needed: int = 1, retry_after: int | None = None
    ) -> None:
        self.quota, self.limit, self.used, self.retry_after = quota, limit, used, retry_after
        more = f", and this needs {needed} more" if needed > 1 else ""
        super().__init__(
            f"the project has used {used} of the {limit} {quota.replace('_', ' ')} that it may have{more}; "
            f"{self._REMEDIES[quota]}"
        )

    def details(self) -> dict[str, Any]:
        """Which quota, its limit, and what is used of it without this request."""
        return {"quota": self.quota, "limit": self.limit, "used": self.used}


class Fenced(CoreError):  # noqa: N818
    """The lease epoch has moved on: this worker no longer holds the job and must stop."""

    code = "fenced"

    def __init__(self, job_id: UUID, epoch: int) -> None:
        super().__init__(f"job {job_id} is no longer held at epoch {epoch}")


class WorkerLost(CoreError):  # noqa: N818 - named for what happened
    """Workers vanished while they ran the job, time and again."""

    code = "worker_lost"

    def __init__(self, attempts: int) -> None:
        super().__init__(
            f"{attempts} workers in a row vanished without finishing a meta-iteration; the job may need more "
            "memory than they have. Retry it, or make the model, the steps or the batch smaller"
        )
