"""A storage that is away: waited for, as it is no fault of the job."""

import io
from threading import Event, Thread

import numpy as np
import pytest

from core.errors import StorageUnavailable
from core.spec import JobSpec
from core.storage import Storage
from core.uploads import normalise
from tests.builders import document, eventually
from tests.uploads import making
from worker import uploads
from worker.lease import Cancelled

SPLIT = {"train": 100, "valid": 5, "test": 5}
SPEC = JobSpec.model_validate(document({"problem.dataset": {"id": "ds_" + "0" * 24, "split": SPLIT}}))


class Held:
    """A lease as `fetched` sees it, which counts how often it was waited for."""

    job_id = "job"

    def __init__(self, sha256, stop=None):
        self.sha256, self.stop, self.waits = sha256, stop, 0

    def run(self, operation):
        return self.sha256

    def wait(self, seconds):
        self.waits += 1
        if self.stop is not None and self.stop.wait(0.01):
            raise Cancelled


@pytest.fixture
def blob(tmp_path, monkeypatch):
    """A storage with a data set whose folder can be put away and back."""
    storage, file = Storage(str(tmp_path / "there")), io.BytesIO()
    sent = io.BytesIO(making.npz(**making.arrays(np.random.default_rng(0))))
    found = normalise({"file": sent}, "npz", file, 1 << 20)
    storage.put(file, found.sha256)
    monkeypatch.setattr(uploads, "_storage", lambda: storage)
    return tmp_path / "there" / found.sha256[:2], found.sha256


def away(folder):
    folder.rename(folder.with_suffix(".kept"))
    folder.write_text("no folder: every access is an OSError")


def back(folder):
    folder.unlink()
    folder.with_suffix(".kept").rename(folder)


def test_an_outage_is_waited_for(blob):
    folder, sha256 = blob
    away(folder)
    lease, found = Held(sha256, Event()), []
    fetching = Thread(target=lambda: found.append(uploads.fetched(lease, SPEC)))
    fetching.start()
    eventually(lambda: lease.waits > 2)
    back(folder)
    fetching.join(30)
    assert found[0].sha256 == sha256


def test_it_is_given_up_with_a_remedy(blob, monkeypatch):
    folder, sha256 = blob
    away(folder)
    monkeypatch.setattr(uploads, "PATIENCE_SECONDS", 0.05)
    with pytest.raises(StorageUnavailable, match="retry it once the storage answers"):
        uploads.fetched(Held(sha256, Event()), SPEC)


def test_the_jobs_owner_need_not_wait(blob):
    folder, sha256 = blob
    away(folder)
    stop = Event()
    stop.set()
    with pytest.raises(Cancelled):
        uploads.fetched(Held(sha256, stop), SPEC)
