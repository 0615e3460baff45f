import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.records import Evaluation, Losses, Trial
from core.store import events, jobs, leases
from core.store.errors import Fenced
from tests.builders import claim, create, read, record, values
from tests.store.test_leases import expire, write

FOUND = Evaluation(Losses(1.0, 2.0, 3.0, 4.0), {})


@pytest.fixture
def job_id(sessions, project):
    return create(sessions, project)


def history(sessions, job_id, after=0, limit=100):
    with sessions() as session:
        return [(event.number, event.kind) for event in events.page(session, job_id, after=after, limit=limit)]


def kinds(sessions, job_id):
    return [kind for _, kind in history(sessions, job_id)]


def test_a_life_is_told_in_order_without_gaps(sessions, project, job_id):
    lease = claim(sessions, job_id)
    write(sessions, leases.save_start, lease, values(0), {"initial": FOUND}, {"device": "cpu"})
    write(sessions, leases.save_trial, lease, Trial(0, {}, 0.5))
    write(sessions, leases.save_trial, lease, Trial(0, {}, 0.5))  # again: its answer was lost
    write(sessions, leases.save_iteration, lease, record(0, best=0, best_loss=1.0))
    write(sessions, jobs.pause, project, job_id)
    write(sessions, leases.give_back, lease)
    write(sessions, jobs.resume, project, job_id)
    lease = claim(sessions, job_id)
    expire(sessions, job_id)
    write(sessions, leases.reap, 3)
    lease = claim(sessions, job_id)
    write(sessions, leases.fail, lease, "diverged", "it did", {})
    write(sessions, jobs.retry, project, job_id)
    lease = claim(sessions, job_id)
    write(sessions, jobs.cancel, project, job_id)
    write(sessions, leases.cancelled, lease)
    told = history(sessions, job_id)
    assert [number for number, _ in told] == list(range(1, 17))
    assert " ".join(kind for _, kind in told) == (
        "created started begun trial iteration pause_requested paused resumed started requeued started failed "
        "retried started cancel_requested cancelled"
    )
    assert read(sessions, project, job_id).last_event == 16
    assert history(sessions, job_id, after=14) == [(15, "cancel_requested"), (16, "cancelled")]
    assert history(sessions, job_id, limit=1) == [(1, "created")]


def test_a_change_that_is_undone_or_fenced_tells_nothing(sessions, project, job_id):
    with sessions() as session:
        jobs.cancel(session, project, job_id)
        session.rollback()
    stale = claim(sessions, job_id)
    write(sessions, leases.give_back, stale)
    before = kinds(sessions, job_id)
    with pytest.raises(Fenced):
        write(sessions, leases.save_iteration, stale, record(0))
    assert kinds(sessions, job_id) == before == ["created", "started", "requeued"]


def test_events_of_a_race_are_numbered_once_each(sessions, project, job_id):
    lease = claim(sessions, job_id)
    together = threading.Barrier(4)

    def act(what):
        together.wait()
        return what()

    with ThreadPoolExecutor(4) as pool:
        acts = [
            lambda: write(sessions, jobs.pause, project, job_id),
            lambda: write(sessions, jobs.pause, project, job_id),
            lambda: write(sessions, leases.save_iteration, lease, record(0)),
            lambda: write(sessions, leases.save_trial, lease, Trial(0, {}, 0.5)),
        ]
        for done in [pool.submit(act, what) for what in acts]:
            done.result()
    found = history(sessions, job_id)
    assert [number for number, _ in found] == [1, 2, 3, 4, 5]
    assert sorted(kind for _, kind in found[2:]) == ["iteration", "pause_requested", "trial"]
