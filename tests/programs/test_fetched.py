"""Programs and their data, fetched for the worker's job."""

import hashlib
import io

import numpy as np
import pytest

from core.errors import DamagedBlob
from core.spec import JobSpec
from core.storage import Storage
from core.store import programs
from core.store.errors import DatasetDeleted, ProgramDeleted
from core.uploads import normalise
from tests.programs import making
from tests.uploads import making as uploading
from worker import uploads

CONTENT, DATA = making.program(), "ds_" + "0" * 24
SPEC = JobSpec.model_validate(making.job("pr_" + "0" * 24, DATA))


def spec(program, data):
    return SPEC.pinned_own({}, {"train": data}, sha256=program)


class Held:
    """A lease as `fetched` sees it, of a job about these digests."""

    job_id = "job"

    def __init__(self, program, **data):
        self.digests = programs.Digests(program, data)

    def run(self, operation):
        assert operation is programs.of_job
        return self.digests


@pytest.fixture
def storage(tmp_path, monkeypatch):
    storage = Storage(str(tmp_path))
    monkeypatch.setattr(uploads, "_storage", lambda: storage)
    return storage


@pytest.fixture
def program(storage):
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    storage.put(io.BytesIO(CONTENT), sha256)
    return sha256


@pytest.fixture
def data(storage):
    file = io.BytesIO()
    sent = io.BytesIO(uploading.npz(**uploading.arrays(np.random.default_rng(0))))
    found = normalise({"file": sent}, "npz", file, 1 << 20)
    storage.put(file, found.sha256)
    return found.sha256


def test_program_and_data_are_fetched_by_their_digests(program, data):
    given = uploads.fetched(Held(program, train=data), spec(program, data))
    assert given.program == CONTENT
    assert list(given.data) == ["train"]
    assert given.data["train"].sha256 == data
    assert given.data["train"].inputs.shape == (30, 4, 4)


def test_what_was_deleted_is_named(program, data):
    with pytest.raises(ProgramDeleted, match="program pr_0+ was deleted; send it again"):
        uploads.fetched(Held(None, train=data), SPEC)
    with pytest.raises(DatasetDeleted, match=f"data set {DATA} was deleted"):
        uploads.fetched(Held(program), SPEC)


def test_other_bytes_are_not_run(storage, program, data, tmp_path):
    (kept,) = tmp_path.rglob(program)
    kept.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DamagedBlob, match="have another digest now"):
        uploads.fetched(Held(program, train=data), spec(program, data))
