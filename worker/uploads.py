"""Uploaded data, fetched for the job that is about them."""

from __future__ import annotations

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


def fetched(lease: HeldLease, spec: JobSpec) -> GivenData | None:
    """The data that the job's owner uploaded; None where it is about others.

    Raises:
        DatasetDeleted: they are no longer there.
        DamagedBlob: they are not what was uploaded.
        StorageUnavailable: this worker knows no storage, or it does not answer.
    """
    if spec.uploaded is None:
        return None
    sha256 = lease.run(datasets.of_job)
    if sha256 is None:
        raise DatasetDeleted(spec.uploaded.id)
    try:
        with _storage().opened(sha256) as file:
            return uploads.canonical.read(file, sha256)
    except OSError as error:
        raise StorageUnavailable(f"the data of the job cannot be fetched now: {error}; retry it later") from error


@cache
def _storage() -> Storage:
    storage = open_storage(get_settings())
    if storage is None:
        raise StorageUnavailable("this worker cannot fetch data; set RETROGRAD_STORAGE_URL to what the API has")
    return storage
