"""Uploads, fetched for the job that is about them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import cache
from typing import BinaryIO, TypeVar

from core import uploads
from core.config import get_settings
from core.datasets import GivenData
from core.errors import CoreError, StorageUnavailable
from core.programs.given import GivenProgram
from core.spec import JobSpec
from core.storage import Storage, open_storage
from core.store import datasets, programs
from core.store.errors import DatasetDeleted, ProgramDeleted
from worker.lease import HeldLease

PATIENCE_SECONDS = 600.0
RETRY_SECONDS = 5.0

_T = TypeVar("_T")

log = logging.getLogger(__name__)


def fetched(lease: HeldLease, spec: JobSpec) -> GivenData | GivenProgram | None:
    """What the job's owner uploaded for it; None where it is about nothing of theirs.

    Raises:
        DatasetDeleted: data are no longer there.
        ProgramDeleted: the program is no longer there.
        DamagedBlob: they are not what was uploaded.
        StorageUnavailable: this worker knows no storage, or it has not answered for ten minutes.
    """
    if spec.uploaded is not None:
        return _read(lease, _there(lease.run(datasets.of_job), DatasetDeleted, spec.uploaded.id), _data)
    if spec.program is None:
        return None
    digests = lease.run(programs.of_job)
    content = _read(lease, _there(digests.program, ProgramDeleted, spec.program.id), _bytes)
    data = {
        name: _read(lease, _there(digests.data.get(name), DatasetDeleted, dataset_id), _data)
        for name, dataset_id in spec.program.data.items()
    }
    return GivenProgram(content, data)


def _there(sha256: str | None, deleted: Callable[[str], CoreError], upload_id: str) -> str:
    if sha256 is None:
        raise deleted(upload_id)
    return sha256


def _read(lease: HeldLease, sha256: str, read: Callable[[BinaryIO, str], _T]) -> _T:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with _storage().opened(sha256) as file:
                return read(file, sha256)
        except OSError as error:  # an outage is no fault of the job
            if time.monotonic() > deadline:
                raise StorageUnavailable(
                    f"what was uploaded for the job cannot be fetched: {error}; retry it once the storage answers"
                ) from error
            log.warning("job %s: the storage is away, trying again: %s", lease.job_id, error)
        lease.wait(RETRY_SECONDS)


def _data(file: BinaryIO, sha256: str) -> GivenData:
    return uploads.canonical.read(file, sha256)


def _bytes(file: BinaryIO, sha256: str) -> bytes:
    return file.read()


@cache
def _storage() -> Storage:
    storage = open_storage(get_settings())
    if storage is None:
        raise StorageUnavailable("this worker cannot fetch data; set RETROGRAD_STORAGE_URL to what the API has")
    return storage
