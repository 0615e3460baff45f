"""Programs in Postgres: who sees them, when they may go, and what jobs are pinned to."""

import hashlib
import io
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from core.errors import InvalidSpec
from core.hyperparameters import count_learned
from core.programs.manifest import Manifest
from core.shapes import groups_for
from core.spec import JobSpec
from core.storage import open_storage
from core.store import blobs, datasets, jobs, leases, pins, programs
from core.store.errors import DatasetInUse, ProgramInUse, UnknownProgram
from core.store.models import Blob
from tests.builders import claim
from tests.programs import making
from tests.store.conftest import other  # noqa: F401 - a fixture
from tests.uploads.test_store import SUMMARY, age
from worker.collector import Collector

DATA = SUMMARY | {
    "inputs": {"shape": [30, 4, 4], "dtype": "uint8"},
    "labels": {"shape": [30], "dtype": "int32"},
}


@pytest.fixture
def storage(settings):
    return open_storage(settings)


def keep(sessions, storage, kind, project, content, summary, name="mine"):
    """As the API does it."""
    sha256 = hashlib.sha256(content).hexdigest()
    with sessions.begin() as session:
        blobs.expect(session, sha256, len(content))
    storage.put(io.BytesIO(content), sha256)
    with sessions.begin() as session:
        return kind.add(session, project, name, sha256, summary)[0].row


@pytest.fixture
def send(sessions, storage, project):
    return lambda content=b"program", summary=None, project=project, **more: keep(
        sessions, storage, programs, project, content, summary or making.found(), **more
    )


@pytest.fixture
def data(sessions, storage, project):
    return keep(sessions, storage, datasets, project, b"data", DATA)


@pytest.fixture
def create(sessions, project):
    def create(program_id, dataset_id, whose=project, training=None, **changes):
        document = making.job(program_id, dataset_id, **changes)
        document["training"] |= training or {}
        with sessions.begin() as session:
            pinned = pins.pin(session, whose, JobSpec.model_validate(document))
            groups = groups_for(pinned.spec, pinned.uploaded, pinned.own)
            return jobs.create(
                session, whose, pinned.spec, preset=None, queue="cpu", groups=groups, max_snapshot_bytes=1
            )

    return create


def test_a_project_sees_its_own_only(sessions, send, data, create, project, other):  # noqa: F811
    mine = send().id
    assert mine.startswith("pr_")
    with sessions.begin() as session:
        assert programs.get(session, project, mine).size == len(b"program")
        assert [one.row.id for one in programs.page(session, project).stored] == [mine]
        for wrong in (programs.get, programs.remove):
            with pytest.raises(UnknownProgram, match="GET /v1/programs"):
                wrong(session, other, mine)
        assert programs.page(session, other).stored == []
    for wrong in (mine, "pr_" + "0" * 24):
        with pytest.raises(InvalidSpec, match=f"problem.id: no program {wrong} in this project"):
            create(wrong, data.id, whose=other)


def test_data_of_another_project_are_not_there(storage, sessions, send, create, data, other):  # noqa: F811
    theirs = send(project=other)
    with pytest.raises(InvalidSpec, match=f"problem.data.train: no data set {data.id} in this project"):
        create(theirs.id, data.id, whose=other)


def test_a_job_pins_program_and_data(send, data, create):
    sent = send()
    job = create(sent.id, data.id)
    assert job.program_id == sent.id
    problem = job.spec["problem"]
    assert problem["sha256"] == sent.sha256
    assert problem["data_sha256"] == {"train": data.sha256}
    assert problem["shapes"] == {"log_step": [5], "momentum": [], "penalties": [16]}
    assert job.num_hyperparameters == 22
    assert job.groups == [{"name": "weights", "shape": [16, 3]}]
    assert count_learned(jobs.layouts_for(job)[1]) == 22
    assert create(sent.id, data.id, learn=["momentum"]).num_hyperparameters == 1
    renamed = send(name="another")
    assert create(renamed.id, data.id, sha256=sent.sha256).spec_sha256 == job.spec_sha256
    assert create(send(b"other").id, data.id).spec_sha256 != job.spec_sha256


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sha256": "0" * 64}, "problem.sha256: program .* give that, or leave it out"),
        ({"data_sha256": {"train": "0" * 64}}, "problem.data_sha256.train: .* give that, or leave it out"),
        ({"data": {}}, "problem.data: the program takes data named train"),
        ({"data": {"train": "ds_" + "0" * 24}}, "problem.data.train: no data set ds_0+ in this project"),
        ({"learn": ["colour"]}, "problem.learn: the program has no hyperparameter 'colour'"),
        ({"initial": {"penalties": [1.0, 2.0]}}, "problem.initial.penalties: has another shape"),
        ({"training": {"num_steps": 7}}, "training.num_steps: the program was exported for 5 steps"),
        ({"training": {"optimizer": "adam"}}, "training.optimizer: the program's schedule gives"),
    ],
)
def test_what_does_not_fit_is_named(send, data, create, changes, says):
    with pytest.raises(InvalidSpec, match=says):
        create(send().id, data.id, **changes)


def test_data_of_another_shape_are_refused(sessions, storage, project, send, create):
    short = DATA | {"inputs": {"shape": [20, 4, 4], "dtype": "uint8"}}
    wrong = keep(sessions, storage, datasets, project, b"short", short)
    with pytest.raises(InvalidSpec, match=r"problem.data.train: its inputs are uint8 of shape \[20, 4, 4\]"):
        create(send().id, wrong.id)


def test_program_and_data_stay_while_a_job_needs_them(sessions, project, send, data, create):
    sent = send()
    job = create(sent.id, data.id)
    lease = claim(sessions, job.id)
    digests = programs.Digests(sent.sha256, {"train": data.sha256})
    with sessions.begin() as session:
        assert programs.of_job(session, lease) == digests
        with pytest.raises(ProgramInUse, match=f"1 of them, run program {sent.id}"):
            programs.remove(session, project, sent.id)
        with pytest.raises(DatasetInUse, match=f"1 of them, learn from data set {data.id}"):
            datasets.remove(session, project, data.id)
    with sessions.begin() as session:
        leases.cancelled(session, lease)
        programs.remove(session, project, sent.id)
        datasets.remove(session, project, data.id)
    with sessions.begin() as session:
        kept = jobs.get(session, project, job.id)
        assert (kept.program_id, kept.spec["problem"]["id"]) == (None, sent.id)
        assert programs.of_job(session, lease) == programs.Digests(None, {})
        assert set(jobs.layouts_for(kept)[1]) == {"log_step", "momentum", "penalties"}  # without the program
        jobs.remove(session, project, job.id)


def test_a_job_created_while_its_program_is_deleted_has_it_or_is_refused(sessions, project, send, data, create):
    """Twenty races: never a job without its program, never an error of ours."""
    for number in range(20):
        sent, barrier = send(bytes([number])), threading.Barrier(2)

        def delete(sent=sent, barrier=barrier):
            barrier.wait()
            try:
                with sessions.begin() as session:
                    programs.remove(session, project, sent.id)
            except ProgramInUse:
                return False
            return True

        def ask(sent=sent, barrier=barrier):
            barrier.wait()
            try:
                return create(sent.id, data.id).id
            except InvalidSpec:
                return None

        with ThreadPoolExecutor(2) as pool:
            deleted, asked = pool.submit(delete), pool.submit(ask)
            gone, job_id = deleted.result(), asked.result()
        assert gone == (job_id is None)
        if job_id is not None:
            with sessions.begin() as session:
                assert jobs.get(session, project, job_id).program_id == sent.id


def test_a_blob_stays_while_a_program_or_a_data_set_has_it(sessions, settings, storage, project, send):
    """The same bytes, uploaded as both: they go with the later of the two."""
    collector = Collector(sessions, settings)
    program = send(b"both")
    dataset = keep(sessions, storage, datasets, project, b"both", DATA)
    assert program.sha256 == dataset.sha256
    for kind, row in ((datasets, dataset), (programs, program)):
        age(sessions)
        assert collector.collect() == 0
        with sessions.begin() as session:
            kind.remove(session, project, row.id)
    assert collector.collect() == 1
    with sessions() as session:
        assert session.scalars(select(Blob)).all() == []
    assert list(storage.found()) == []


def test_a_collector_that_looked_at_data_sets_alone_would_lose_programs(
    sessions, settings, storage, project, send, monkeypatch
):
    """The negative control."""
    send()
    age(sessions)
    monkeypatch.setattr(blobs, "_UPLOADS", blobs._UPLOADS[:1])
    with pytest.raises(Exception, match="fk_programs_sha256"):
        Collector(sessions, settings).collect()


def test_a_manifest_is_read_back_from_its_row(send):
    assert programs.manifest_of(send()) == Manifest.model_validate(making.MANIFEST)
