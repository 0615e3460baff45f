"""Uploaded data, fetched for the job that is about them."""

from __future__ import annotations

import logging
import time
from functools import cache

from core import uploads
from core.config import get_settings
from core.datasets import GivenData
from core.errors import StorageUnavailable
from core.spec import JobSpec
from core.storage import Storage, open_storage
from core.store import datasets
from core.store.errors import DatasetDeleted
from worker.lease import HeldLease

PATIENCE_SECONDS = 600.0
RETRY_SECONDS = 5.0

log = logging.getLogger(__name__)


def fetched(lease: HeldLease, spec: JobSpec) -> GivenData | None:
    """The data that the job's owner uploaded; None where it is about others.

    Raises:
        DatasetDeleted: they are no longer there.
        DamagedBlob: they are not what was uploaded.
        StorageUnavailable: this worker knows no storage, or it has not answered for ten minutes.
    """
    if spec.uploaded is None:
        return None
    sha256 = lease.run(datasets.of_job)
    if sha256 is None:
        raise DatasetDeleted(spec.uploaded.id)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with _storage().opened(sha256) as file:
                return uploads.canonical.read(file, sha256)
        except OSError as error:  # an outage is no fault of the job
            if time.monotonic() > deadline:
                raise StorageUnavailable(
                    f"the data of the job cannot be fetched: {error}; retry it once the storage answers"
                ) from error
            log.warning("job %s: the storage is away, trying again: %s", lease.job_id, error)
        lease.wait(RETRY_SECONDS)


@cache
def _storage() -> Storage:
    storage = open_storage(get_settings())
    if storage is None:
        raise StorageUnavailable("this worker cannot fetch data; set RETROGRAD_STORAGE_URL to what the API has")
    return storage
