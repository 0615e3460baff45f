"""Races that threads can run many times: each side as the service runs it, on a real Postgres."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from core.records import Evaluation, Losses
from core.store import jobs, leases, outbox
from core.store.errors import Fenced, StateConflict
from core.store.models import State
from tests.builders import claim, create, read, record, values
from tests.faults import history
from tests.store.test_leases import expire, write
from worker.lease import ShuttingDown, leased

FOUND = Evaluation(Losses(1.0, 2.0, 3.0, 4.0), {})
CURVES = {"learning_curve.best": np.ones(3)}
MANY, SOME, SEEDS = 50, 25, 5


@pytest.fixture
def pool():
    with ThreadPoolExecutor(9) as pool:
        yield pool


@pytest.fixture(autouse=True)
def sound(sessions):
    """Whatever a test does, every history is sound after it, and nothing is left to do."""
    yield
    write(sessions, outbox.publish, lambda job_id, queue: None)
    history.check(sessions)


def at_once(pool, *acts):
    """Results of what is done at the same time, each in its thread."""
    together = threading.Barrier(len(acts))

    def act(what):
        together.wait()
        return what()

    return [done.result() for done in [pool.submit(act, what) for what in acts]]


def begin(session, lease):
    leases.save_start(session, lease, values(0), {"initial": FOUND}, {"device": "cpu"})
    return leases.save_iteration(session, lease, record(0, best=0, best_loss=1.0))


def succeed(session, lease):
    found = dict.fromkeys(("initial", "best", "last"), FOUND)
    leases.succeed(session, lease, best_iteration=1, evaluations=found, arrays=CURVES, provenance={})


def work(sessions, settings, job_id):
    """What a worker does with a message, but for the numerics; whether it got the job."""
    with leased(sessions, job_id, settings, threading.Event()) as lease:
        if lease is not None:
            lease.heed(lease.run(begin))
            lease.check()
            lease.run(succeed)
    return lease is not None


def outcome(act, *errors):
    try:
        act()
    except errors as error:
        return type(error)
    return None


class Aim:
    """A delay that comes to the moment at which either side may win: shorter after each loss, longer after each win."""

    def __init__(self):
        self.seconds, self._draw, self._seen = 0.002, random.Random(0), set()

    def rounds(self, least):
        """So many rounds, and more until both orders have occurred: a busy machine takes longer to be aimed at."""
        for number in range(4 * least):
            if number >= least and len(self._seen) == 2:
                return
            yield number

    def wait(self):
        end = time.perf_counter() + self.seconds * self._draw.uniform(0.5, 1.5)
        while time.perf_counter() < end:  # sleeping is coarser than the race
            pass

    def learn(self, *, late):
        self._seen.add(late)
        step = 1.25 if len(self._seen) == 2 else 2.0
        self.seconds = min(max(self.seconds * (1 / step if late else step), 1e-5), 5.0)


def against_completion(act, aim, sessions, settings, project, pool, job_id):
    """An owner's act while a worker completes the job: whether it was refused, and the state that came of it."""

    def owner_acts():
        aim.wait()
        return outcome(lambda: write(sessions, act, project, job_id), StateConflict)

    _, refused = at_once(pool, lambda: work(sessions, settings, job_id), owner_acts)
    state = read(sessions, project, job_id).state
    aim.learn(late=state == State.SUCCEEDED)
    return refused, state


@pytest.mark.fault(injected="8 workers claim one job", checked="one wins, at epoch 1", repetitions=MANY)
def test_one_of_eight_workers_wins(sessions, project, pool):
    for _ in range(MANY):
        job_id = create(sessions, project)
        won = [lease for lease in at_once(pool, *[lambda: claim(sessions, job_id)] * 8) if lease]  # noqa: B023
        assert [lease.epoch for lease in won] == [1]
        write(sessions, begin, won[0])
        write(sessions, succeed, won[0])


@pytest.mark.fault(
    injected="the same message to 4 workers at once", checked="one run, one result", repetitions=SOME
)
def test_duplicate_delivery_is_one_run(sessions, settings, project, pool):
    for _ in range(SOME):
        job_id = create(sessions, project)
        ran = at_once(pool, *[lambda: work(sessions, settings, job_id)] * 4)  # noqa: B023
        assert sum(ran) == 1
        job = read(sessions, project, job_id)
        assert (job.state, job.attempt) == (State.SUCCEEDED, 1)


@pytest.mark.fault(
    injected="cancel while the worker completes (store)",
    checked="one wins, both orders occur, the answer is true",
    repetitions=MANY,
)
def test_cancel_races_completion(sessions, settings, project, pool, noted):
    aim, ended = Aim(), []
    for _ in aim.rounds(MANY):
        job_id = create(sessions, project)
        refused, state = against_completion(jobs.cancel, aim, sessions, settings, project, pool, job_id)
        assert state in (State.CANCELLED, State.SUCCEEDED)
        if refused:
            assert state == State.SUCCEEDED
        ended.append(state)
    assert set(ended) == {State.CANCELLED, State.SUCCEEDED}
    noted(f"{ended.count(State.CANCELLED)} cancelled, {ended.count(State.SUCCEEDED)} succeeded")


@pytest.mark.fault(
    injected="pause while the worker completes (store), then resume",
    checked="put by or succeeded, and after a resume succeeded",
    repetitions=SOME,
)
def test_pause_races_completion(sessions, settings, project, pool, noted):
    aim, ended = Aim(), []
    for _ in aim.rounds(SOME):
        job_id = create(sessions, project)
        refused, state = against_completion(jobs.pause, aim, sessions, settings, project, pool, job_id)
        assert state in (State.SUCCEEDED, State.PAUSED)
        ended.append(state)
        if state == State.PAUSED:
            assert not refused
            write(sessions, jobs.resume, project, job_id)
            finish(sessions, settings, job_id)
        assert read(sessions, project, job_id).state == State.SUCCEEDED
    assert set(ended) == {State.PAUSED, State.SUCCEEDED}
    noted(f"{ended.count(State.PAUSED)} put by")


def finish(sessions, settings, job_id):
    with leased(sessions, job_id, settings, threading.Event()) as lease:
        done = lease.run(leases.work).checkpoint
        if done is None:
            lease.run(begin)
        lease.run(succeed)


@pytest.mark.fault(
    injected="a lease runs out while its holder completes, two janitors look",
    checked="succeeded once, or queued once and its holder fenced",
    repetitions=SOME,
)
def test_reaping_races_completion(sessions, settings, project, pool, noted):
    aim, ended = Aim(), []
    for _ in aim.rounds(SOME):
        job_id = create(sessions, project)
        lease = claim(sessions, job_id)
        write(sessions, begin, lease)
        expire(sessions, job_id)

        def reap():
            aim.wait()
            return write(sessions, leases.reap, 3)

        ends = partial(outcome, partial(write, sessions, succeed, lease), Fenced)
        fenced, *taken = at_once(pool, ends, reap, reap)
        state = read(sessions, project, job_id).state
        assert (state, sum(taken)) == ((State.QUEUED, 1) if fenced else (State.SUCCEEDED, 0))
        aim.learn(late=not fenced)
        ended.append(state)
        if fenced:
            finish(sessions, settings, job_id)
    assert set(ended) == {State.QUEUED, State.SUCCEEDED}
    noted(f"{ended.count(State.QUEUED)} taken from their worker")


@pytest.mark.fault(
    injected="owners, workers and janitors at four jobs in random order",
    checked="every history is a word of the state machine",
    repetitions=SEEDS,
)
def test_everything_at_once(sessions, settings, project, pool, noted):
    for seed in range(SEEDS):
        ids = [create(sessions, project) for _ in range(4)]
        acts = [owner, owner, owner, worker, worker, worker, janitor, janitor]
        draws = [random.Random(f"{seed} {number}") for number in range(len(acts))]
        given = (sessions, settings, project, ids)
        at_once(pool, *[partial(act, draw, *given) for act, draw in zip(acts, draws, strict=True)])
        history.check(sessions, at_rest=False)
        write(sessions, leases.reap, 2)
        for job_id in ids:
            outcome(lambda: write(sessions, jobs.cancel, project, job_id), StateConflict)  # noqa: B023
    noted(f"{sum(len(found.events) for found in history.check(sessions, at_rest=False))} events")


def owner(draw, sessions, settings, project, ids):
    for _ in range(25):
        action = draw.choice([jobs.cancel, jobs.pause, jobs.resume, jobs.resume, jobs.retry, jobs.retry])
        outcome(lambda: write(sessions, action, project, draw.choice(ids)), StateConflict)  # noqa: B023


def worker(draw, sessions, settings, project, ids):
    """Loses every third job, gives every third back, and ends every third."""
    for _ in range(12):
        job_id, fate = draw.choice(ids), draw.randrange(3)
        if fate == 0:
            if claim(sessions, job_id) is not None:
                expire(sessions, job_id)
            continue
        with leased(sessions, job_id, settings, threading.Event()) as lease:
            if lease is not None:
                lease.heed(lease.run(begin))
                if fate == 1:
                    raise ShuttingDown
                lease.run(succeed)


def janitor(draw, sessions, settings, project, ids):
    for _ in range(25):
        write(sessions, leases.reap, 2)
