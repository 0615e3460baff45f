import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from pydantic import ValidationError
from sqlalchemy import func, select, text, update

from core.config import Settings
from core.quotas import Quotas
from core.shapes import groups_for
from core.store import jobs, leases, outbox, quotas
from core.store.errors import QuotaExceeded
from core.store.events import Kind
from core.store.models import Event, Job, LearnedValue, OptimizerLeaf, State, WakeUp
from tests.builders import claim, create, eventually, record, values
from tests.store.projects import (
    GENEROUS,
    SPEC,
    do,
    limited,
    messages,
    post,
    state_of,
    take,
    tallies,
    upload,
)

# Queued jobs


def test_of_many_at_once_exactly_as_many_are_queued_as_may_be(sessions, project):
    limits = limited(queued_jobs=7)
    ready = threading.Barrier(25)

    def one(_):
        ready.wait()
        try:
            return post(sessions, project, limits)
        except QuotaExceeded as error:
            return error.details()

    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(one, range(25)))
    assert sum(isinstance(answer, UUID) for answer in answers) == 7
    assert [answer for answer in answers if not isinstance(answer, UUID)] == [
        {"quota": "queued_jobs", "limit": 7, "used": 7}
    ] * 18
    assert tallies(sessions)[project][0] == 7
    with sessions.begin() as session:
        assert session.scalar(select(func.count()).select_from(WakeUp)) == 7  # nothing is left of the others


def test_a_count_that_locks_nothing_would_let_too_many_in(sessions, project):
    """The negative control: why the tally's row is locked."""
    inserted = threading.Barrier(2)
    queued = []

    def one(_):
        with sessions.begin() as session:
            queued.append(session.scalar(select(func.count()).where(Job.state == State.QUEUED)))
            inserted.wait()
            if queued[-1] < 1:
                jobs.create(
                    session, project, SPEC, preset=None, queue="cpu", groups=groups_for(SPEC), max_snapshot_bytes=1
                )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, range(2)))
    assert tallies(sessions)[project][0] == 2


@pytest.mark.parametrize(("limit", "waits"), [(100_000, False), (3, True)])
def test_far_from_a_quota_nobody_waits_for_another(sessions, project, limit, waits):
    limits = limited(queued_jobs=limit)
    create(sessions, project)
    with ThreadPoolExecutor(1) as pool:
        with sessions.begin() as session:
            quotas.check(session, project, limits, queued=1)
            other = pool.submit(post, sessions, project, limits)
            if waits:
                waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
                eventually(lambda: do(sessions, lambda session: session.scalar(waiting)))
                assert not other.done()
            else:
                other.result(10)
        other.result(10)


@pytest.mark.parametrize("action", ["retry", "resume"])
def test_a_retry_or_resume_is_one_more_in_the_queue(sessions, project, action):
    job_id = create(sessions, project)
    do(sessions, jobs.cancel if action == "retry" else jobs.pause, project, job_id)
    create(sessions, project)
    with pytest.raises(QuotaExceeded) as caught:
        do(sessions, getattr(jobs, action), project, job_id, limited(queued_jobs=1))
    assert caught.value.details() == {"quota": "queued_jobs", "limit": 1, "used": 1}
    assert state_of(sessions, job_id).state == (State.CANCELLED if action == "retry" else State.PAUSED)
    do(sessions, getattr(jobs, action), project, job_id, limited(queued_jobs=2))
    assert state_of(sessions, job_id).state == State.QUEUED


def test_taking_back_a_pause_queues_nothing(sessions, project):
    job_id = create(sessions, project)
    claim(sessions, job_id)
    do(sessions, jobs.pause, project, job_id)
    do(sessions, jobs.resume, project, job_id, limited(queued_jobs=0))
    assert state_of(sessions, job_id).state == State.RUNNING


def test_other_projects_are_not_counted(sessions, project, other):
    create(sessions, project)
    post(sessions, other, limited(queued_jobs=1))
    with pytest.raises(QuotaExceeded):
        post(sessions, other, limited(queued_jobs=1))


# Stored bytes


@pytest.mark.parametrize("max_snapshot_bytes", [1 << 20, 1], ids=["every iteration kept", "three kept"])
def test_a_job_is_counted_with_at_least_what_it_comes_to_store(sessions, project, max_snapshot_bytes):
    job_id = post(sessions, project, GENEROUS, max_snapshot_bytes=max_snapshot_bytes)
    lease = claim(sessions, job_id)
    do(sessions, leases.save_start, lease, values(0), {}, {})
    for number in range(4):
        do(sessions, leases.save_iteration, lease, record(number, best=1, best_loss=1.0))
    with sessions.begin() as session:
        stored = [
            session.scalar(select(func.sum(func.octet_length(table.data))).where(table.job_id == job_id))
            for table in (LearnedValue, OptimizerLeaf)
        ]
    assert 0 < sum(stored) <= tallies(sessions)[project][2] < 2 * sum(stored)


def test_beyond_the_stored_bytes_nothing_more_is_accepted_until_something_is_deleted(sessions, project):
    first = post(sessions, project, GENEROUS)
    size = tallies(sessions)[project][2]
    limits = limited(stored_bytes=2 * size - 1)
    with pytest.raises(QuotaExceeded, match=f"needs {size} more; delete") as caught:
        post(sessions, project, limits)
    assert caught.value.details() == {"quota": "stored_bytes", "limit": 2 * size - 1, "used": size}
    assert caught.value.retry_after is None
    do(sessions, jobs.cancel, project, first)
    do(sessions, jobs.remove, project, first)
    post(sessions, project, limits)


def test_uploaded_data_are_counted_too(sessions, project):
    upload(sessions, project, 1000)
    with sessions.begin() as session:
        quotas.check(session, project, limited(stored_bytes=1000), added_bytes=1000)
        with pytest.raises(QuotaExceeded) as caught:
            quotas.check(session, project, limited(stored_bytes=999), added_bytes=1000)
    assert caught.value.details()["used"] == 0


# Running jobs


def test_no_more_run_than_may_and_the_rest_wait(sessions, project):
    limits = limited(running_jobs=2)
    waiting = [create(sessions, project) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda job_id: take(sessions, job_id, limits), waiting))
    assert sum(lease is not None for lease in claimed) == 2
    assert tallies(sessions)[project][:2] == (6, 2)
    held = [job_id for job_id, lease in zip(waiting, claimed, strict=True) if lease is None]
    assert all(state_of(sessions, job_id).held for job_id in held)
    with sessions.begin() as session:
        row = session.execute(select(Job.attempt, Job.lease_epoch, Job.started_at).where(Job.id == held[0])).one()
        assert row == (0, 0, None)  # being held back is no attempt
        kinds = session.scalars(select(Event.kind).where(Event.job_id == held[0]).order_by(Event.number)).all()
        assert kinds == [Kind.CREATED, Kind.HELD]


def test_when_one_ends_the_oldest_is_woken_and_only_that(sessions, project, other, janitor):
    limits = limited(running_jobs=1)
    first, second, third = [create(sessions, project) for _ in range(3)]
    messages(sessions)
    lease = take(sessions, first, limits)
    assert take(sessions, third, limits) is None
    assert take(sessions, second, limits) is None
    for _ in range(3):
        janitor.wake()
    assert messages(sessions) == []  # nothing is woken, again and again, while there is no room
    do(sessions, leases.cancelled, lease)
    for _ in range(3):
        janitor.wake()
    assert messages(sessions) == [second]  # once: it is on its way
    fresh = create(sessions, project)
    assert take(sessions, fresh, limits) is None  # third is older, and would never have its turn
    assert take(sessions, create(sessions, other), limits) is not None  # others do not wait
    lease = take(sessions, second, limits)
    assert lease is not None
    do(sessions, leases.cancelled, lease)
    messages(sessions)
    janitor.wake()
    assert messages(sessions) == [third]


def test_held_jobs_are_not_published_again_and_again(sessions, project):
    limits = limited(running_jobs=0)
    job_id = create(sessions, project)
    messages(sessions)
    assert take(sessions, job_id, limits) is None
    with sessions.begin() as session:
        assert outbox.overdue_queues(session, 0.0) == []
        assert outbox.republish(session, "cpu", 0.0, drained=True) == 0


def test_a_queue_without_workers_holds_up_no_other(sessions, project, janitor):
    create(sessions, project, queue="gpu")
    job_id = create(sessions, project)
    assert take(sessions, job_id, limited(running_jobs=0)) is None
    messages(sessions)
    janitor.wake()
    assert messages(sessions) == [job_id]


@pytest.mark.parametrize("action", [jobs.cancel, jobs.pause])
def test_a_held_job_can_be_cancelled_or_paused(sessions, project, janitor, action):
    job_id = create(sessions, project)
    messages(sessions)
    assert take(sessions, job_id, limited(running_jobs=0)) is None
    do(sessions, action, project, job_id)
    janitor.wake()
    assert messages(sessions) == []
    do(sessions, jobs.retry if action is jobs.cancel else jobs.resume, project, job_id)
    assert messages(sessions) == [job_id]
    assert take(sessions, job_id, limited(running_jobs=1)) is not None


# Limits


def test_a_project_may_have_limits_of_its_own(sessions, project, other):
    do(sessions, quotas.set_own, project, {"queued_jobs": 3, "stored_bytes": 0}, GENEROUS)
    assert do(sessions, quotas.of, project, GENEROUS) == limited(queued_jobs=3, stored_bytes=0)
    assert do(sessions, quotas.of, other, GENEROUS) == GENEROUS
    do(sessions, quotas.set_own, project, {"stored_bytes": None}, GENEROUS)
    assert do(sessions, quotas.of, project, GENEROUS) == limited(queued_jobs=3)


@pytest.mark.parametrize(
    "own",
    [{"queued": 1}, {"queued_jobs": -1}, {"queued_jobs": "many"}, {"queued_jobs": 1.5}, {"queued_jobs": True}],
)
def test_wrong_limits_are_not_written_and_when_read_they_are_left_out(sessions, project, own, caplog):
    with pytest.raises(ValidationError):
        do(sessions, quotas.set_own, project, own, GENEROUS)
    do(sessions, lambda s: s.execute(update(quotas.Project).values(quotas=own | {"running_jobs": 5})))
    assert do(sessions, quotas.of, project, GENEROUS) == limited(running_jobs=5)
    assert do(sessions, quotas.of, project, GENEROUS) == limited(running_jobs=5)
    assert caplog.text.count("left out") <= 1  # said once


def test_default_limits_are_valid():
    assert isinstance(GENEROUS, Quotas)
    assert GENEROUS.hyperparameters_per_job == Settings().max_hyperparameters
