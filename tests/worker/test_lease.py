import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from core.errors import FixedPointOverflow
from core.store import jobs, leases, outbox
from core.store.errors import Fenced
from core.store.models import State
from tests.builders import create, eventually, read, record
from worker.lease import Cancelled, ShuttingDown, leased


@pytest.fixture
def quick(settings):
    return settings.model_copy(update={"lease_seconds": 1.0, "heartbeat_seconds": 0.02})


@pytest.fixture
def job_id(sessions, project):
    return create(sessions, project)


def cancel(sessions, project, job_id):
    with sessions.begin() as session:
        jobs.cancel(session, project, job_id)


def raised_by(check):
    def try_it():
        try:
            check()
        except Exception as error:
            return error
        return None

    return eventually(try_it)


def finish(session, lease):
    leases.succeed(session, lease, best_iteration=0, evaluations={}, arrays={}, provenance={})


def test_nothing_to_hold(sessions, quick, job_id):
    with leased(sessions, job_id, quick, threading.Event()) as first:
        with leased(sessions, job_id, quick, threading.Event()) as second:
            assert second is None
        first.check()
        first.run(finish)


def test_a_job_that_a_quota_holds_back_is_not_held(sessions, project, quick, job_id):
    none = quick.model_copy(update={"quota_running_jobs": 0})
    with leased(sessions, job_id, none, threading.Event()) as lease:
        assert lease is None
    assert read(sessions, project, job_id).state == State.QUEUED


def test_heartbeats_count_the_time_on_the_device(sessions, project, quick, job_id):
    with leased(sessions, job_id, quick, threading.Event()) as lease:
        eventually(lambda: read(sessions, project, job_id).device_seconds > 0.05)
        lease.run(finish)
    job = read(sessions, project, job_id)
    assert job.device_seconds <= (job.ended_at - job.started_at).total_seconds() + 0.01


def test_a_held_job_outlives_its_first_lease(sessions, project, quick, job_id):
    with leased(sessions, job_id, quick, threading.Event()) as lease:
        first = read(sessions, project, job_id).lease_expires_at
        eventually(lambda: read(sessions, project, job_id).lease_expires_at > first)
        lease.run(finish)
    assert read(sessions, project, job_id).state == State.SUCCEEDED
    assert not [thread for thread in threading.enumerate() if str(job_id) in thread.name]


def test_a_cancel_reaches_the_work(sessions, project, quick, job_id):
    with leased(sessions, job_id, quick, threading.Event()) as lease:
        cancel(sessions, project, job_id)
        error = raised_by(lease.check)
        assert isinstance(error, Cancelled)
        raise error
    assert read(sessions, project, job_id).state == State.CANCELLED


def test_a_worker_that_lost_its_lease_stops_and_writes_nothing(sessions, project, quick, job_id):
    with leased(sessions, job_id, quick, threading.Event()) as lease:
        with sessions.begin() as session:
            session.execute(text("UPDATE jobs SET lease_expires_at = clock_timestamp() - interval '1 s'"))
            leases.reap(session, 3)
            other = leases.claim(session, job_id, 60)
        error = raised_by(lease.check)
        assert isinstance(error, Fenced)
        raise error
    job = read(sessions, project, job_id)
    assert (job.state, job.lease_epoch) == (State.RUNNING, other.epoch)


def test_a_shutdown_gives_the_job_back(sessions, project, quick, job_id):
    stopping = threading.Event()
    with leased(sessions, job_id, quick, stopping) as lease:
        lease.check()
        stopping.set()
        with pytest.raises(ShuttingDown) as caught:
            lease.check()
        raise caught.value
    job = read(sessions, project, job_id)
    assert (job.state, job.attempt, job.attempts_without_progress) == (State.QUEUED, 1, 0)


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
def test_the_end_of_the_process_gives_the_job_back_and_goes_on(sessions, project, quick, job_id, end):
    with pytest.raises(end), leased(sessions, job_id, quick, threading.Event()):
        raise end
    assert read(sessions, project, job_id).state == State.QUEUED


def test_an_error_of_ours_fails_the_job_with_its_code_and_keeps_what_was_learned(sessions, project, quick, job_id):
    with leased(sessions, job_id, quick, threading.Event()) as lease:
        lease.run(leases.save_iteration, record(0, best=0, best_loss=1.0))
        raise FixedPointOverflow(step=3, group="layer_1.weights", largest=float("inf"), limit=1e6)
    job = read(sessions, project, job_id)
    assert (job.state, job.best_iteration, job.meta_iteration) == (State.FAILED, 0, 1)
    assert job.error["code"] == "diverged"
    assert "lower the step size" in job.error["message"]
    assert job.error["details"] == {"step": 3, "group": "layer_1.weights", "field": "position", "largest": None}


def test_any_other_error_is_tried_again_later_elsewhere_and_fails_the_job_shortly(
    sessions, project, quick, job_id, caplog
):
    for attempt in range(1, quick.max_attempts + 1):
        with pytest.raises(ZeroDivisionError), leased(sessions, job_id, quick, threading.Event()):
            raise ZeroDivisionError("x" * 1000 + "\nsecond line\0")
        job = read(sessions, project, job_id)
        assert (job.state, job.attempt) == (State.FAILED if attempt == 3 else State.QUEUED, attempt)
        with sessions.begin() as session:
            assert outbox.is_empty(session) == (attempt > 1)  # but for the wake-up that came with the job
            outbox.publish(session, lambda one, queue: None)
    error = job.error
    assert error["code"] == "internal_error"
    assert error["message"].startswith("ZeroDivisionError: xxx")
    assert len(error["message"]) < 400
    assert "Traceback" in caplog.text


def test_a_short_outage_of_the_database_is_waited_out(sessions, project, quick, job_id):
    stopping, tries = threading.Event(), []

    def fails_once(session, lease):
        tries.append(lease)
        if len(tries) == 1:
            session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        finish(session, lease)

    with leased(sessions, job_id, quick, stopping) as lease:
        lease.run(fails_once)
    assert len(tries) == 2
    assert read(sessions, project, job_id).state == State.SUCCEEDED


def test_after_a_long_outage_the_job_is_left_to_the_janitor(sessions, project, quick, job_id):
    def always_fails(session, lease):
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    brief = quick.model_copy(update={"lease_seconds": 0.1})
    with leased(sessions, job_id, brief, threading.Event()) as lease:
        lease.run(always_fails)
    assert read(sessions, project, job_id).state == State.RUNNING  # until its lease runs out


@contextmanager
def failing(sessions, table, when):
    """Every `when` on a table fails as on a full disk."""
    with sessions.begin() as session:
        session.execute(
            text(
                "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "RAISE EXCEPTION USING ERRCODE = 'disk_full', MESSAGE = 'could not extend file'; END $$"
            )
        )
        session.execute(
            text(f"CREATE TRIGGER full_disk BEFORE {when} ON {table} FOR EACH ROW EXECUTE FUNCTION full_disk()")
        )
    try:
        yield
    finally:
        with sessions.begin() as session:
            session.execute(text("DROP FUNCTION full_disk CASCADE"))


@pytest.mark.fault(
    injected="a full disk at a checkpoint, while leases can be renewed",
    checked="the job waits and succeeds in its first attempt",
)
def test_a_full_disk_is_waited_for_as_long_as_the_lease_is_renewed(
    sessions, project, quick, job_id, caplog, monkeypatch
):
    monkeypatch.setattr("worker.lease._RETRY_SECONDS", 0.2)
    with leased(sessions, job_id, quick, threading.Event()) as lease, ThreadPoolExecutor(1) as pool:
        with failing(sessions, "checkpoints", "INSERT"):
            saving = pool.submit(lease.run, leases.save_iteration, record(0, best=0, best_loss=1.0))
            eventually(lambda: caplog.text.count("could not extend file") > 6)  # which takes longer than a lease
            assert not saving.done()
        saving.result(10)
        lease.run(finish)
    job = read(sessions, project, job_id)
    assert (job.state, job.attempt, job.meta_iteration) == (State.SUCCEEDED, 1, 1)


@pytest.mark.fault(
    injected="a disk so full that no lease can be renewed", checked="the job is queued again once there is room"
)
def test_a_disk_too_full_to_renew_leaves_the_job_to_the_janitor(sessions, project, quick, job_id):
    brief = quick.model_copy(update={"lease_seconds": 0.2})
    with failing(sessions, "jobs", "UPDATE"), pytest.raises(OperationalError):
        cancel(sessions, project, job_id)  # the control: nothing can be written
    with leased(sessions, job_id, brief, threading.Event()) as lease, failing(sessions, "jobs", "UPDATE"):
        lease.run(leases.save_iteration, record(0))
    assert read(sessions, project, job_id).state == State.RUNNING

    def reaped():  # a heartbeat may have found room before the end
        with sessions.begin() as session:
            return leases.reap(session, 3)

    assert eventually(reaped) == 1
    assert read(sessions, project, job_id).state == State.QUEUED


def test_a_full_disk_holds_no_job_that_its_owner_wants_ended(sessions, project, quick, job_id):
    brief = quick.model_copy(update={"lease_seconds": 0.2})
    with failing(sessions, "checkpoints", "INSERT"):
        with leased(sessions, job_id, brief, threading.Event()) as lease:
            cancel(sessions, project, job_id)
            lease.run(leases.save_iteration, record(0))
        eventually(lambda: reaped(sessions))
    assert read(sessions, project, job_id).state == State.CANCELLED


def reaped(sessions):
    with sessions.begin() as session:
        return leases.reap(session, 3)


@pytest.fixture
def process_ends(monkeypatch):
    """What would end the process is counted instead."""
    ends = []
    monkeypatch.setattr("worker.lease.end_process", lambda: ends.append(1))
    return ends


def test_a_job_that_takes_too_much_memory_is_failed_and_its_process_ends(
    sessions, project, quick, job_id, process_ends
):
    small = quick.model_copy(update={"job_memory_bytes": 50 << 20})
    with leased(sessions, job_id, small, threading.Event()) as lease:
        lease.run(leases.save_iteration, record(0, best=0, best_loss=1.0))
        taken = np.ones(100 << 20, np.uint8)
        eventually(lambda: process_ends)
        with pytest.raises(Fenced):  # what goes on can write nothing more
            lease.run(finish)
        raise ShuttingDown
    job = read(sessions, project, job_id)
    assert (job.state, job.error["code"], job.meta_iteration) == (State.FAILED, "out_of_memory", 1)
    assert job.error["details"]["limit"] == 50 << 20 < len(taken)


def test_a_database_that_is_away_does_not_keep_a_process_that_must_end(
    sessions, quick, job_id, process_ends, monkeypatch
):
    def away(*_):
        raise OperationalError("", {}, Exception("away"))

    monkeypatch.setattr(leases, "fail", away)
    small = quick.model_copy(update={"job_memory_bytes": 1})
    with leased(sessions, job_id, small, threading.Event()):
        eventually(lambda: process_ends)
        raise ShuttingDown


def test_a_job_that_ended_in_time_ends_no_process(sessions, project, quick, job_id, process_ends, monkeypatch):
    held, going, fail = [], threading.Event(), leases.fail

    def late(*arguments):
        going.set()
        held[0]._released.wait(10)
        fail(*arguments)

    monkeypatch.setattr(leases, "fail", late)
    small = quick.model_copy(update={"job_memory_bytes": 1})
    with leased(sessions, job_id, small, threading.Event()) as lease:
        held.append(lease)
        going.wait(10)
        lease.run(finish)
    assert process_ends == []
    assert read(sessions, project, job_id).state == State.SUCCEEDED


def test_a_stalled_job_is_tried_again_and_then_failed(sessions, project, quick, job_id, process_ends):
    still = quick.model_copy(update={"stalled_seconds": 0.05, "max_attempts": 2})
    for number, state in enumerate((State.QUEUED, State.FAILED), start=1):
        with leased(sessions, job_id, still, threading.Event()) as lease:
            eventually(lambda number=number: len(process_ends) == number)
            error = raised_by(lease.check)
            assert isinstance(error, Fenced)
            raise error
        job = read(sessions, project, job_id)
        assert (job.state, job.attempts_without_progress) == (state, number)
    assert job.error["code"] == "stalled"


def test_a_job_out_of_time_fails_with_what_it_learned(sessions, project, quick, job_id):
    brief = quick.model_copy(update={"job_seconds": 0.1})
    with leased(sessions, job_id, brief, threading.Event()) as lease:
        lease.run(leases.save_iteration, record(0, best=0, best_loss=1.0))
        raise raised_by(lease.check)
    job = read(sessions, project, job_id)
    assert (job.state, job.error["code"], job.best_iteration) == (State.FAILED, "out_of_time", 0)


def test_a_want_of_memory_is_named(sessions, project, quick, job_id):
    with leased(sessions, job_id, quick, threading.Event()):
        np.zeros(1 << 55, np.uint8)
    assert read(sessions, project, job_id).error["code"] == "out_of_memory"
