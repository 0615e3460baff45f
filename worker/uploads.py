"""Uploads, fetched for the job that is about them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import cache, partial
from typing import TypeVar

from core import own_problems, uploads
from core.config import get_settings
from core.datasets import GivenData
from core.errors import StorageUnavailable
from core.own_problems import GivenOwn
from core.spec import JobSpec
from core.storage import Storage, open_storage
from core.store import datasets, programs
from core.store.errors import DatasetDeleted, ProgramDeleted
from worker.lease import HeldLease

PATIENCE_SECONDS = 600.0
RETRY_SECONDS = 5.0

_T = TypeVar("_T")

log = logging.getLogger(__name__)


def fetched(lease: HeldLease, spec: JobSpec) -> GivenData | GivenOwn | None:
    """What the job's owner uploaded for it; None where it is about nothing of theirs.

    Raises:
        DatasetDeleted: data are no longer there.
        ProgramDeleted: the program is no longer there.
        DamagedBlob: they are not what was uploaded.
        StorageUnavailable: this worker knows no storage, or it has not answered for ten minutes.
    """
    if spec.uploaded is not None:
        sha256 = lease.run(datasets.of_job)
        if sha256 is None:
            raise DatasetDeleted(spec.uploaded.id)
        return _patiently(lease, partial(_data, sha256))
    if spec.own is None or not spec.has_uploads:
        return None
    there = lease.run(programs.of_job)
    if spec.program is not None and there.program is None:
        raise ProgramDeleted(spec.program.id)
    for name, dataset_id in spec.own.data.items():
        if name not in there.data:
            raise DatasetDeleted(dataset_id)
    return _patiently(lease, lambda: own_problems.fetched(spec, _storage().opened))


def _patiently(lease: HeldLease, read: Callable[[], _T]) -> _T:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return read()
        except OSError as error:  # an outage is no fault of the job
            if time.monotonic() > deadline:
                raise StorageUnavailable(
                    f"what was uploaded for the job cannot be fetched: {error}; retry it once the storage answers"
                ) from error
            log.warning("job %s: the storage is away, trying again: %s", lease.job_id, error)
        lease.wait(RETRY_SECONDS)


def _data(sha256: str) -> GivenData:
    with _storage().opened(sha256) as file:
        return uploads.canonical.read(file, sha256)


@cache
def _storage() -> Storage:
    storage = open_storage(get_settings())
    if storage is None:
        raise StorageUnavailable("this worker cannot fetch data; set RETROGRAD_STORAGE_URL to what the API has")
    return storage
