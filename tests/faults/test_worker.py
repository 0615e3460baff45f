"""Faults of workers and of what they rest on, while they run jobs: real processes, real signals."""

import json
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from core.store.models import State
from tests.builders import document, eventually
from tests.faults import history
from tests.faults.dying import POISON
from tests.faults.service import comparable
from worker.publisher import publishing

STEPS = {"training.num_steps": 2000, "meta.evaluation_seeds": 1}  # one shape, so that it is compiled once
LONG = document(STEPS | {"meta.num_iterations": 400})
THIRTY = document(STEPS | {"meta.num_iterations": 30})
MESSAGES, RACES, MOMENTS = 100, 20, 10

pytestmark = pytest.mark.timeout(1800)  # each child that is killed costs an import of JAX, slow on a busy machine


@pytest.fixture
def worker(service):
    """The service with one worker, warm if the test before left it alone."""
    if "worker" not in service.names() or service.process("worker").poll() is not None:
        service.start("worker")
    return service


@pytest.fixture
def put_by(caller):
    """Have long jobs ended at the end of a test, as the worker is shared."""
    jobs = []
    yield jobs.append
    for job_id in jobs:
        caller.act(job_id, "cancel")
        caller.ended(job_id)


def of(found, job_id):
    return next(one for one in found if one.id == job_id)


@pytest.mark.slow  # a child is replaced after 50 messages
@pytest.mark.fault(
    injected=f"the same message {MESSAGES} times", checked="one run, one result", repetitions=MESSAGES
)
def test_the_same_message_many_times(worker, caller, store, broker):
    job_id = caller.submit(document())
    with publishing(worker.settings.broker_url.get_secret_value()) as publisher:
        for _ in range(MESSAGES):
            publisher.send(job_id, "cpu")
    assert caller.ended(job_id)["state"] == "succeeded"
    eventually(lambda: broker.llen("cpu") == 0)
    assert caller.submit(document())  # and a job after all these messages
    assert caller.ended(caller.accepted[-1])["state"] == "succeeded"
    assert of(history.check(store), job_id).attempt == 1


@pytest.mark.fault(
    injected="kill -9 of the worker's child", checked="the job goes on from its checkpoint", repetitions=1
)
@pytest.mark.slow
def test_a_killed_child(worker, caller, store, noted):
    job_id = caller.submit(THIRTY)
    kept = caller.past(job_id, 2)
    worker.child().kill()
    job = caller.ended(job_id)
    assert (job["state"], job["attempt"]) == ("succeeded", 2)
    rows = of(history.check(store, seconds=5), job_id).iterations
    assert sum(row.lease_epoch == 1 for row in rows) >= kept
    noted(f"killed after {kept} of 30 meta-iterations")


@pytest.mark.fault(
    injected="Postgres restarted while a job runs and clients POST", checked="all accepted jobs succeed"
)
@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_postgres_restarted(worker, caller, postgres, how, noted):
    job_id = caller.submit(THIRTY)
    caller.past(job_id, 2)
    with ThreadPoolExecutor(1) as pool:
        if how == "killed":
            os.kill(postgres.pid, signal.SIGKILL)
        else:
            postgres.stop()
        meanwhile = pool.submit(caller.submit, document())
        postgres.start()
    assert caller.ended(job_id)["state"] == caller.ended(meanwhile.result())["state"] == "succeeded"
    noted(f"{caller.refused} calls refused or lost meanwhile")


@pytest.mark.fault(
    injected="broker", checked="jobs accepted before and meanwhile run when it is back", repetitions=3
)
@pytest.mark.parametrize("how", ["killed", "wiped", "frozen"])
def test_broker_lost(worker, caller, valkey, broker, how):
    before = [caller.submit(document()) for _ in range(3)]
    if how == "wiped":
        for _ in range(10):
            broker.flushall()
    elif how == "killed":
        valkey.stop()
        during = [caller.submit(document()) for _ in range(3)]
        valkey.start()
        before += during
    else:
        os.kill(valkey.pid, signal.SIGSTOP)
        before += [caller.submit(document()) for _ in range(3)]
        os.kill(valkey.pid, signal.SIGCONT)
    for job_id in before:
        assert caller.ended(job_id)["state"] == "succeeded"


@pytest.mark.slow
@pytest.mark.fault(
    injected="cancel or pause of a job as it completes, over HTTP",
    checked="one wins, the answer is true, a paused job succeeds once resumed",
    repetitions=RACES,
)
@pytest.mark.parametrize("action", ["cancel", "pause"])
def test_an_owner_races_completion(worker, caller, action, noted):
    ends, draw, seconds = [], random.Random(1), 0.3
    for _ in range(RACES):
        job_id = caller.submit(document({"meta.num_iterations": 2}))
        eventually(lambda: caller.look(job_id)["state"] != "queued", 60)  # noqa: B023
        time.sleep(draw.uniform(0, seconds))  # the moment of the race, not a wait
        refused = caller.act(job_id, action).status_code == 409
        state = eventually(lambda: at_rest(caller, job_id), 60)  # noqa: B023
        assert state == "succeeded" or not refused
        seconds = max(seconds * (0.7 if refused else 1.3), 0.001)
        ends.append(state)
        if state == "paused":
            caller.act(job_id, "resume")
            assert caller.ended(job_id)["state"] == "succeeded"
    noted(", ".join(f"{ends.count(state)} {state}" for state in sorted(set(ends))))
    assert set(ends) <= {"succeeded", "cancelled" if action == "cancel" else "paused"}


def at_rest(caller, job_id):
    state = caller.look(job_id)["state"]
    return state if state in (*history.ENDS, "paused") else None


@pytest.mark.slow
@pytest.mark.fault(
    injected="SIGTERM to the worker in mid-iteration", checked="given back, no attempt charged, then succeeded"
)
def test_a_worker_told_to_stop(worker, caller, store):
    job_id = caller.submit(THIRTY)
    caller.past(job_id, 2)
    worker.stop("worker")
    with store() as session:
        job = session.get(history.Job, job_id)
        assert (job.state, job.attempt, job.attempts_without_progress) == (State.QUEUED, 1, 0)
    worker.start("worker")
    assert caller.ended(job_id)["state"] == "succeeded"
    found = of(history.check(store, seconds=5), job_id)
    assert [event.data["reason"] for event in found.events if event.kind == "requeued"] == ["worker_shut_down"]


@pytest.mark.slow
@pytest.mark.fault(
    injected="kill -9 of the worker alone",
    checked="its child ends with it, another worker ends the job",
)
def test_a_killed_worker(worker, caller, put_by, noted):
    job_id = caller.submit(LONG)
    put_by(job_id)
    caller.past(job_id, 2)
    orphan = worker.child()
    worker.kill("worker")
    began = time.monotonic()
    eventually(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE)
    noted(f"its child ended after {time.monotonic() - began:.2f} s")
    worker.start("worker")
    eventually(lambda: caller.look(job_id)["attempt"] == 2, 240)
    caller.past(job_id, caller.look(job_id)["progress"]["meta_iteration"] + 2)


@pytest.mark.slow
@pytest.mark.fault(
    injected="SIGSTOP of a worker and its child past the lease, then SIGCONT",
    checked="another worker ends the job, the thawed one writes 0 rows",
)
def test_a_frozen_worker(worker, caller, store, put_by, noted):
    job_id = caller.submit(LONG)
    put_by(job_id)
    caller.past(job_id, 2)
    worker.freeze("worker")
    eventually(lambda: caller.look(job_id)["state"] == "queued")
    worker.start("worker-2")
    try:
        kept = rows_of(store, job_id)[1]
        caller.past(job_id, kept + 2)
        child, log = worker.child(), worker.log("worker")
        worker.thaw("worker")
        fenced = (
            f"job {job_id}: another worker has it"  # unless its guard finds first that it stood still for long
        )
        eventually(lambda: fenced in log.read_text() or not child.is_running(), 60)
        caller.past(job_id, caller.look(job_id)["progress"]["meta_iteration"] + 2)
        rows = rows_of(store, job_id)
        assert set(rows) == {1, 2}
        assert rows[1] == kept
        noted(f"{rows[1] - kept} rows written after the thaw")
    finally:
        worker.stop("worker-2")


def rows_of(store, job_id):
    """Rows of meta-iterations, by the epoch that wrote them."""
    with store() as session:
        counted = (
            history.select(history.MetaIteration.lease_epoch, history.func.count())
            .where(history.MetaIteration.job_id == job_id)
            .group_by(history.MetaIteration.lease_epoch)
        )
        return dict(tuple(row) for row in session.execute(counted))


@pytest.mark.slow
@pytest.mark.fault(
    injected="a job that kills its own process, every time",
    checked="failed: worker_lost after 3 attempts, the others succeed",
    repetitions=3,
)
def test_a_poisonous_job(worker, caller):
    worker.stop("worker")
    worker.start("worker", "tests.faults.dying", POISON)  # else it is the service's own
    poison = caller.submit(document({"name": POISON}))
    others = [caller.submit(document()) for _ in range(3)]
    for job_id in others:
        assert caller.ended(job_id)["state"] == "succeeded"
    job = caller.ended(poison)
    assert (job["state"], job["error"]["code"], job["attempt"]) == ("failed", "worker_lost", 3)
    worker.stop("worker")


@pytest.mark.slow
@pytest.mark.fault(
    injected="kill -9 of the child, and at two moments of the worker, at random moments of one job of 30 meta-iterations",
    checked="the result is that of an uninterrupted run, byte for byte",
    repetitions=MOMENTS,
)
def test_killed_at_ten_moments(worker, caller, store, noted):
    draw = random.Random(30)
    whole = caller.submit(THIRTY)
    assert caller.ended(whole)["attempt"] == 1
    job_id = caller.submit(THIRTY)
    moments = sorted(draw.sample(range(29), MOMENTS))
    killed_at = []
    for number, moment in enumerate(moments):
        killed_at.append(caller.past(job_id, moment, 200))
        with store() as session:
            seconds = session.get(history.Job, job_id).seconds_per_iteration or 0.0
        time.sleep(draw.uniform(0, 1) * seconds)  # somewhere in the meta-iteration
        if number % 5 == 4:
            worker.kill("worker")
            worker.start("worker")
        else:
            worker.child().kill()
        attempts = number + 1
        eventually(lambda: caller.look(job_id)["attempt"] > attempts, 240)  # noqa: B023
    job = caller.ended(job_id, 300)
    assert (job["state"], job["attempt"]) == ("succeeded", MOMENTS + 1)
    for which in ("best", "last", 0, 15):
        results = [comparable(caller.result(one, iteration=which), one) for one in (whole, job_id)]
        assert results[0] == results[1]
    noted(f"killed after {killed_at} meta-iterations; {len(results[0])} bytes compared")
    changed = json.loads(results[0])
    assert (
        changed["hyperparameters"]["step_size"]["values"][0] != THIRTY["hyperparameters"]["step_size"]["initial"]
    )
