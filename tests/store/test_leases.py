import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sqlalchemy import select, text

from core.records import Evaluation, Losses, Trial
from core.store import jobs, learned, leases, measured
from core.store.errors import Fenced, NothingLearned, Pruned, UnknownIteration
from core.store.leases import Lease, Wish
from core.store.models import Job, MetaIteration, State, WakeUp
from tests.builders import claim, create, read, record, values

FOUND = Evaluation(Losses(1.0, 2.0, 3.0, math.nan), {"test_accuracy": 0.5})


@pytest.fixture
def job_id(sessions, project):
    return create(sessions, project)


def write(sessions, operation, *args, **kwargs):
    with sessions.begin() as session:
        return operation(session, *args, **kwargs)


def expire(sessions, job_id):
    with sessions.begin() as session:
        session.execute(
            text("UPDATE jobs SET lease_expires_at = clock_timestamp() - interval '1 s' WHERE id = :id"),
            {"id": job_id},
        )


def learned_at(sessions, project, job_id, which):
    with sessions.begin() as session:
        return learned.read(session, jobs.get(session, project, job_id), which)


def test_of_eight_workers_one_wins_the_claim(sessions, project, job_id):
    together = threading.Barrier(8)

    def race(_):
        together.wait()
        return claim(sessions, job_id)

    with ThreadPoolExecutor(8) as pool:
        won = [lease for lease in pool.map(race, range(8)) if lease]
    assert won == [Lease(job_id, epoch=1, attempt=1)]
    job = read(sessions, project, job_id)
    assert (job.state, job.attempt, job.lease_epoch) == (State.RUNNING, 1, 1)


def test_a_job_that_does_not_wait_is_not_claimed(sessions, job_id):
    assert claim(sessions, job_id) is not None
    assert claim(sessions, job_id) is None


WRITES = {
    "renew": lambda session, lease: leases.renew(session, lease, 60),
    "save_start": lambda session, lease: leases.save_start(session, lease, values(0), {"initial": FOUND}, {}),
    "save_iteration": lambda session, lease: leases.save_iteration(session, lease, record(0)),
    "succeed": lambda session, lease: leases.succeed(
        session, lease, best_iteration=0, evaluations={}, arrays={}, provenance={}
    ),
    "save_trial": lambda session, lease: leases.save_trial(session, lease, Trial(0, {}, 1.0)),
    "fail": lambda session, lease: leases.fail(session, lease, "code", "message", {}),
    "cancelled": leases.cancelled,
    "give_back": leases.give_back,
}


@pytest.mark.parametrize("operation", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("meanwhile", ["taken over", "queued again", "ended"])
def test_a_worker_whose_epoch_has_passed_writes_nothing(sessions, project, job_id, operation, meanwhile):
    stale = claim(sessions, job_id)
    if meanwhile == "ended":
        write(sessions, leases.cancelled, stale)
    else:
        expire(sessions, job_id)
        write(sessions, leases.reap, 3)
        if meanwhile == "taken over":
            claim(sessions, job_id)

    def everything():
        with sessions() as session:
            tables = ("jobs", "iterations", "learned_values", "checkpoints", "optimizer_leaves", "outbox")
            return [session.execute(text(f"SELECT * FROM {table}")).all() for table in tables]

    before = everything()
    with pytest.raises(Fenced):
        write(sessions, operation, stale)
    assert everything() == before


def test_saving_twice_is_saving_once(sessions, project, job_id):
    lease = claim(sessions, job_id)
    for _ in range(2):  # a commit whose answer was lost is tried again
        write(
            sessions, leases.save_start, lease, values(0), {"initial": FOUND, "searched": None}, {"device": "cpu"}
        )
        write(sessions, leases.save_iteration, lease, record(0, best=0, best_loss=1.0))
    with sessions() as session:
        assert len(session.scalars(select(MetaIteration)).all()) == 1
        assert learned.kept_iterations(session, job_id) == [0, 1]
    assert read(sessions, project, job_id).meta_iteration == 1


def test_what_is_saved_is_what_a_later_attempt_goes_on_from(sessions, project, job_id):
    lease = claim(sessions, job_id)
    assert write(sessions, leases.work, lease).starts == {}
    write(sessions, leases.save_start, lease, values(0), {"initial": FOUND, "searched": None}, {"device": "cpu"})
    saved = record(0, best=0, best_loss=1.0)
    write(sessions, leases.save_iteration, lease, saved)
    work = write(sessions, leases.work, lease)
    assert work.starts["initial"].losses[:3] == FOUND.losses[:3]
    assert math.isnan(work.starts["initial"].losses.test)
    assert work.starts["initial"].measures == FOUND.measures
    assert work.starts["searched"] is None
    assert (work.checkpoint.iteration, work.checkpoint.best_iteration) == (1, 0)
    assert (work.checkpoint.best_outer_loss, work.checkpoint.first_norm) == (1.0, 0.1)
    for name, array in saved.checkpoint.values.items():
        np.testing.assert_array_equal(work.checkpoint.values[name], array, strict=True)
    for kept, leaf in zip(work.checkpoint.optimizer_state, saved.checkpoint.optimizer_state, strict=True):
        np.testing.assert_array_equal(kept, leaf, strict=True)


def test_progress_shows_in_the_job(sessions, project, job_id):
    lease = claim(sessions, job_id)
    write(sessions, leases.save_iteration, lease, record(0, outer=3.0, best=0, best_loss=3.0))
    write(sessions, leases.save_iteration, lease, record(1, outer=math.nan, best=0, best_loss=3.0))
    job = read(sessions, project, job_id)
    assert (job.meta_iteration, job.best_iteration, job.best_outer_loss) == (2, 0, 3.0)
    assert math.isnan(job.latest_outer_loss)
    assert job.seconds_per_iteration == pytest.approx(2.0)
    assert job.attempts_without_progress == 0
    assert job.last_progress_at is not None


def test_saving_tells_of_a_cancel(sessions, project, job_id):
    lease = claim(sessions, job_id)
    assert write(sessions, leases.save_iteration, lease, record(0)) is Wish.GO_ON
    write(sessions, jobs.cancel, project, job_id)
    assert write(sessions, leases.save_iteration, lease, record(1)) is Wish.CANCEL


def test_every_iteration_is_kept_while_they_fit(sessions, project, job_id):
    lease = claim(sessions, job_id)
    for number in range(3):
        write(sessions, leases.save_iteration, lease, record(number, best=0, best_loss=1.0))
    write(sessions, leases.save_start, lease, values(0), {"initial": FOUND}, {})
    for which, iteration in (("best", 0), ("last", 3), (2, 2), (0, 0)):
        found = learned_at(sessions, project, job_id, which)
        assert found.iteration == iteration
        np.testing.assert_array_equal(found.values["step_size"], values(iteration)["step_size"])
    with pytest.raises(UnknownIteration, match=r"no iteration 4.*0 .*to 3"):
        learned_at(sessions, project, job_id, 4)


def test_otherwise_initial_best_and_last_are_kept(sessions, project):
    job_id = create(sessions, project, max_snapshot_bytes=21 * 8 * 5 - 1)
    lease = claim(sessions, job_id)
    write(sessions, leases.save_start, lease, values(0), {"initial": FOUND}, {})
    for number in range(4):
        best = min(number, 2)
        write(sessions, leases.save_iteration, lease, record(number, best=best, best_loss=1.0 - best / 10))
    assert learned_at(sessions, project, job_id, "best").iteration == 2
    assert learned_at(sessions, project, job_id, "last").iteration == 4
    assert learned_at(sessions, project, job_id, 0).iteration == 0
    with pytest.raises(Pruned, match="0, 2, 4") as caught:
        learned_at(sessions, project, job_id, 3)
    assert caught.value.details() == {"kept": [0, 2, 4]}


@pytest.mark.parametrize("which", ["best", "last", 0])
def test_before_the_first_iteration_nothing_is_learned(sessions, project, job_id, which):
    with pytest.raises(NothingLearned, match="queued"):
        learned_at(sessions, project, job_id, which)


def test_success_points_to_the_best(sessions, project, job_id):
    lease = claim(sessions, job_id)
    write(sessions, leases.save_iteration, lease, record(0, best=0, best_loss=1.0))
    write(
        sessions,
        leases.succeed,
        lease,
        best_iteration=1,
        evaluations={"initial": FOUND, "best": FOUND, "last": None},
        arrays={"learning_curve.best": np.arange(3.0)},
        provenance={"device": "cpu"},
    )
    job = read(sessions, project, job_id)
    assert (job.state, job.lease_expires_at, job.best_iteration) == (State.SUCCEEDED, None, 1)
    assert job.losses["best"] == {
        "outer": 1.0,
        "train": 2.0,
        "valid": 3.0,
        "test": None,
        "measures": {"test_accuracy": 0.5},
    }
    assert job.losses["last"] is None
    assert learned_at(sessions, project, job_id, "best").iteration == 1
    with sessions() as session:
        assert measured.read(session, job_id)["learning_curve.best"].tolist() == [0, 1, 2]


def test_trials_are_kept_in_order_and_once(sessions, job_id):
    lease = claim(sessions, job_id)
    kept = [Trial(0, {"step_size": -0.1}, 0.5), Trial(1, {"step_size": 1 / 3}, None)]
    for trial in (*kept, kept[0]._replace(outer_loss=9.0)):
        assert write(sessions, leases.save_trial, lease, trial) is Wish.GO_ON
    assert write(sessions, leases.work, lease).trials == kept


def test_a_job_given_back_is_not_charged(sessions, project, job_id):
    lease = claim(sessions, job_id)
    with sessions.begin() as session:
        session.execute(text("DELETE FROM outbox"))
    write(sessions, leases.give_back, lease)
    job = read(sessions, project, job_id)
    assert (job.state, job.attempt, job.attempts_without_progress) == (State.QUEUED, 1, 0)
    with sessions() as session:
        assert session.scalars(select(WakeUp.job_id)).all() == [job_id]
    assert claim(sessions, job_id).epoch == 2


def test_a_job_given_back_after_a_cancel_ends(sessions, project, job_id):
    lease = claim(sessions, job_id)
    write(sessions, jobs.cancel, project, job_id)
    write(sessions, leases.give_back, lease)
    job = read(sessions, project, job_id)
    assert (job.state, job.ended_at is None) == (State.CANCELLED, False)


def test_a_lease_in_force_is_not_reaped(sessions, job_id):
    claim(sessions, job_id)
    assert write(sessions, leases.reap, 3) == 0


def test_a_lost_worker_costs_an_attempt_and_the_third_the_job(sessions, project, job_id):
    for attempt in (1, 2, 3):
        lease = claim(sessions, job_id)
        assert lease == Lease(job_id, epoch=attempt, attempt=attempt)
        expire(sessions, job_id)
        assert write(sessions, leases.reap, 3) == 1
        assert read(sessions, project, job_id).state == (State.QUEUED if attempt < 3 else State.FAILED)
    job = read(sessions, project, job_id)
    assert job.error["code"] == "worker_lost"
    assert "3 workers in a row" in job.error["message"]


def test_progress_clears_the_account(sessions, project, job_id):
    for number in range(5):
        lease = claim(sessions, job_id)
        if number < 4:
            write(sessions, leases.save_iteration, lease, record(number))
        expire(sessions, job_id)
        write(sessions, leases.reap, 3)
    assert read(sessions, project, job_id).state == State.QUEUED


def test_a_lost_job_that_was_cancelled_ends(sessions, project, job_id):
    claim(sessions, job_id)
    write(sessions, jobs.cancel, project, job_id)
    expire(sessions, job_id)
    write(sessions, leases.reap, 3)
    assert read(sessions, project, job_id).state == State.CANCELLED


def test_a_lost_job_that_was_to_be_paused_waits_for_its_owner(sessions, project, job_id):
    claim(sessions, job_id)
    write(sessions, jobs.pause, project, job_id)
    expire(sessions, job_id)
    write(sessions, leases.reap, 3)
    assert read(sessions, project, job_id).state == State.PAUSED


def test_many_janitors_reap_each_job_once(sessions, project):
    for _ in range(5):
        job_id = create(sessions, project)
        claim(sessions, job_id)
        expire(sessions, job_id)
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda _: write(sessions, leases.reap, 3), range(4))) == 5


def test_the_database_refuses_what_no_code_should_write(sessions, job_id):
    from sqlalchemy.exc import IntegrityError

    for change, constraint in {
        "state = 'running'": "leased_while_running",
        "state = 'failed', ended_at = now()": "error_when_failed",
        "state = 'cancelled'": "ended_at_when_ended",
        "state = 'lost'": "ck_jobs_state",
        "last_event = -1": "last_event_not_negative",
        "meta_iteration = 5": "meta_iteration_in_range",
        "attempt = -1": "attempt_not_negative",
    }.items():
        with sessions() as session, pytest.raises(IntegrityError, match=constraint):
            session.execute(text(f"UPDATE jobs SET {change}"))
    with sessions() as session:
        assert session.scalars(select(Job.state)).one() == State.QUEUED
