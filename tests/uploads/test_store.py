"""Data sets and blobs in Postgres: who sees them, when they may go, and that nothing is lost between."""

import hashlib
import io
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from sqlalchemy import select, text

from core.errors import DamagedBlob, InvalidSpec, StorageUnavailable
from core.shapes import groups_for
from core.spec import JobSpec
from core.storage import open_storage
from core.store import blobs, datasets, jobs, keys, leases
from core.store.errors import DatasetInUse, UnknownUpload
from core.store.models import Blob, Dataset
from tests.builders import claim, document
from worker.collector import Collector

SUMMARY = {
    "inputs": {"shape": [400, 8, 8], "dtype": "uint8"},
    "labels": {"shape": [400], "dtype": "int32"},
    "class_counts": [40] * 10,
    "scale": 16.0,
}


@pytest.fixture
def storage(settings):
    return open_storage(settings)


@pytest.fixture
def other(sessions):
    with sessions.begin() as session:
        return keys.ensure_project(session, "other")


def upload(sessions, storage, project, content=b"content", name="mine", summary=SUMMARY):
    """As the API does it."""
    sha256 = hashlib.sha256(content).hexdigest()
    with sessions.begin() as session:
        blobs.expect(session, sha256, len(content))
    storage.put(io.BytesIO(content), sha256)
    with sessions.begin() as session:
        return datasets.add(session, project, name, sha256, summary)


def create(sessions, project, dataset_id, **changes):
    wanted = {"id": dataset_id, "split": {"train": 200, "valid": 100, "test": 100}}
    with sessions.begin() as session:
        spec = JobSpec.model_validate(document({"problem.dataset": wanted | changes}))
        spec, info = datasets.pin(session, project, spec)
        groups = groups_for(spec, info)
        return jobs.create(session, project, spec, preset=None, queue="cpu", groups=groups, max_snapshot_bytes=1)


def digests(sessions):
    with sessions() as session:
        return set(session.scalars(select(Blob.sha256)))


def age(sessions, seconds=7200):
    with sessions.begin() as session:
        session.execute(text(f"UPDATE blobs SET created_at = created_at - interval '{seconds} s'"))


def test_the_same_data_are_one_blob_and_a_row_for_each_project_and_name(sessions, storage, project, other):
    first, is_new = upload(sessions, storage, project)
    again, again_is_new = upload(sessions, storage, project)
    named, _ = upload(sessions, storage, project, name="another")
    theirs, _ = upload(sessions, storage, other)
    assert (is_new, again_is_new) == (True, False)
    assert first.row.id == again.row.id
    assert len({first.row.id, named.row.id, theirs.row.id}) == 3
    assert len(digests(sessions)) == len(list(storage.found())) == 1


def test_uploaded_at_once_it_is_one_row(sessions, storage, project):
    with ThreadPoolExecutor(8) as pool:
        stored = list(pool.map(lambda _: upload(sessions, storage, project), range(16)))
    assert len({one.row.id for one, _ in stored}) == 1
    assert sum(is_new for _, is_new in stored) == 1


def test_a_project_sees_its_own_only(sessions, storage, project, other):
    mine = upload(sessions, storage, project)[0].row.id
    with sessions.begin() as session:
        assert datasets.get(session, project, mine).size == 7
        with pytest.raises(UnknownUpload):
            datasets.get(session, other, mine)
        with pytest.raises(UnknownUpload):
            datasets.remove(session, other, mine)
        assert datasets.page(session, other).stored == []
    for wrong in (mine, "ds_" + "0" * 24):
        with pytest.raises(InvalidSpec, match=f"problem.dataset.id: no data set {wrong} in this project"):
            create(sessions, other, wrong)


def test_pages_follow_each_other(sessions, storage, project):
    ids = [upload(sessions, storage, project, name=f"n{number}")[0].row.id for number in range(5)]
    seen, after = [], None
    with sessions() as session:
        while True:
            page = datasets.page(session, project, after=after, limit=2)
            seen += [one.row.id for one in page.stored]
            if (after := page.next) is None:
                break
    assert seen == ids[::-1]


def test_a_job_pins_the_digest_of_its_data(sessions, storage, project):
    stored = upload(sessions, storage, project)[0].row
    job = create(sessions, project, stored.id)
    assert job.dataset_id == stored.id
    assert job.spec["problem"]["dataset"]["sha256"] == stored.sha256
    with pytest.raises(InvalidSpec, match=f"problem.dataset.sha256: .*{stored.sha256}; give that"):
        create(sessions, project, stored.id, sha256="0" * 64)
    renamed = upload(sessions, storage, project, name="another")[0].row
    assert create(sessions, project, renamed.id, sha256=stored.sha256).spec_sha256 == job.spec_sha256
    different = upload(sessions, storage, project, content=b"other")[0].row
    assert create(sessions, project, different.id).spec_sha256 != job.spec_sha256


def test_data_stay_while_a_job_needs_them(sessions, storage, project):
    stored = upload(sessions, storage, project)[0].row
    job = create(sessions, project, stored.id)
    lease = claim(sessions, job.id)
    with sessions.begin() as session:
        assert datasets.of_job(session, lease) == stored.sha256
        with pytest.raises(DatasetInUse, match=f"1 of them, learn from data set {stored.id}"):
            datasets.remove(session, project, stored.id)
    with sessions.begin() as session:
        leases.cancelled(session, lease)
        datasets.remove(session, project, stored.id)
    with sessions.begin() as session:
        assert jobs.get(session, project, job.id).dataset_id is None
        assert datasets.of_job(session, lease) is None


def test_a_job_created_while_its_data_are_deleted_has_them_or_is_refused(sessions, storage, project):
    """Twenty races: never a job without data, never an error of ours."""
    outcomes = set()
    for number in range(20):
        stored = upload(sessions, storage, project, content=bytes([number]))[0].row
        barrier = threading.Barrier(2)

        def delete(stored=stored, barrier=barrier):
            barrier.wait()
            try:
                with sessions.begin() as session:
                    datasets.remove(session, project, stored.id)
            except DatasetInUse:
                return "kept"
            return "deleted"

        def ask(stored=stored, barrier=barrier):
            barrier.wait()
            try:
                return create(sessions, project, stored.id).id
            except InvalidSpec:
                return None

        with ThreadPoolExecutor(2) as pool:
            deleted, asked = pool.submit(delete), pool.submit(ask)
            outcome, job_id = deleted.result(), asked.result()
        outcomes.add(outcome)
        with sessions.begin() as session:
            if job_id is None:
                assert outcome == "deleted"
            else:
                assert outcome == "kept"
                assert jobs.get(session, project, job_id).dataset_id == stored.id
    assert outcomes <= {"kept", "deleted"}


def test_only_old_blobs_without_data_sets_are_collected(sessions, settings, storage, project):
    collector = Collector(sessions, settings)
    kept = upload(sessions, storage, project, content=b"kept")[0].row
    gone = upload(sessions, storage, project, content=b"gone")[0].row
    with sessions.begin() as session:
        datasets.remove(session, project, gone.id)
    assert collector.collect() == 0  # not an hour old
    assert len(list(storage.found())) == 2
    age(sessions)
    assert collector.collect() == 1
    assert digests(sessions) == {sha256 for sha256, _ in storage.found()} == {kept.sha256}


def test_data_sent_again_live_on(sessions, settings, storage, project):
    gone = upload(sessions, storage, project)[0].row
    with sessions.begin() as session:
        datasets.remove(session, project, gone.id)
    age(sessions)
    with sessions.begin() as session:
        blobs.expect(session, gone.sha256, 7)
    assert Collector(sessions, settings).collect() == 0


def test_a_collection_that_fails_forgets_nothing(sessions, settings, storage, project):
    sha256 = upload(sessions, storage, project)[0].row.sha256
    with sessions.begin() as session:
        session.execute(text("DELETE FROM datasets"))

    def fail(sha256):
        raise OSError("away")

    age(sessions)
    with pytest.raises(OSError, match="away"), sessions.begin() as session:
        blobs.collect(session, fail)
    assert digests(sessions) == {sha256}
    storage.delete(sha256)  # deleted, and then the process was killed
    with sessions.begin() as session:
        assert blobs.collect(session, storage.delete) is True
    assert digests(sessions) == set()


def test_an_upload_that_took_too_long_is_told_so(sessions, settings, project):
    with pytest.raises(StorageUnavailable, match="send them again"), sessions.begin() as session:
        datasets.add(session, project, "mine", "0" * 64, SUMMARY)


def test_bytes_that_no_row_knows_are_found_and_collected(sessions, settings, storage, project):
    kept = upload(sessions, storage, project)[0].row
    orphan = hashlib.sha256(b"orphan").hexdigest()
    storage.put(io.BytesIO(b"orphan"), orphan)
    collector = Collector(sessions, settings)
    assert collector.sweep() == 1
    assert collector.sweep() == 0
    assert collector.collect() == 0
    age(sessions)
    assert collector.collect() == 1
    assert {sha256 for sha256, _ in storage.found()} == {kept.sha256}


def test_a_janitor_without_a_storage_does_nothing(sessions, settings):
    collector = Collector(sessions, settings.model_copy(update={"storage_url": ""}))
    assert (collector.collect(), collector.sweep()) == (0, 0)


def test_collecting_and_uploading_the_same_bytes_at_once_loses_nothing(sessions, storage, project):
    """Two collectors without patience race with uploads and deletions: whoever has a row has its bytes."""
    done = threading.Event()
    collected = 0

    def collect():
        nonlocal collected
        while not done.wait(0.005):  # long enough for some uploads to come through
            with sessions.begin() as session:
                collected += blobs.collect(session, storage.delete, unused_seconds=0)

    kept = refused = 0
    with ThreadPoolExecutor(2) as pool:
        collectors = [pool.submit(collect) for _ in range(2)]
        try:
            while refused < 2000 and (kept < 30 or not collected):
                try:
                    stored = upload(sessions, storage, project)[0].row
                except StorageUnavailable:
                    refused += 1  # without patience, a blob may go before its data set is there
                    continue
                kept += 1
                with storage.opened(stored.sha256) as file:
                    assert file.read() == b"content"
                with sessions.begin() as session:
                    datasets.remove(session, project, stored.id)
        finally:
            done.set()
        for one in collectors:
            one.result()
    assert collected > 0
    assert kept >= 30


def unused_blob(sessions, storage, project):
    stored = upload(sessions, storage, project)[0].row
    with sessions.begin() as session:
        datasets.remove(session, project, stored.id)
    return stored.sha256


def test_an_upload_that_comes_while_its_bytes_are_deleted_waits_and_is_whole(sessions, storage, project):
    sha256, sent = unused_blob(sessions, storage, project), []

    def delete(found):
        sent.append(pool.submit(upload, sessions, storage, project))
        assert not wait(sent, timeout=0.3).done
        storage.delete(found)

    with ThreadPoolExecutor(1) as pool:
        with sessions.begin() as session:
            assert blobs.collect(session, delete, unused_seconds=0)
        assert sent[0].result()[0].row.sha256 == sha256
    with storage.opened(sha256) as file:
        assert file.read() == b"content"


def test_without_the_lock_it_would_be_lost(sessions, storage, project):
    """The negative control: looked at, uploaded again, deleted."""
    sha256 = unused_blob(sessions, storage, project)
    with sessions() as session:
        assert session.scalar(select(Dataset).where(Dataset.sha256 == sha256)) is None
    upload(sessions, storage, project)
    storage.delete(sha256)
    with pytest.raises(DamagedBlob), storage.opened(sha256):
        pass


def test_it_goes_on_after_a_failure_until_told_to_stop(sessions, settings, storage, project):
    stop, seen = threading.Event(), []

    def survive(duty):
        seen.append(duty.__name__)
        if len(seen) == 2:
            stop.set()

    Collector(sessions, settings).run(stop, survive)
    assert seen == ["sweep", "collect"]
