import base64
from uuid import uuid4

import pytest
from sqlalchemy import delete, select, text

from core.store import jobs, keys, learned, leases
from core.store.errors import InvalidCursor, StateConflict, UnknownJob
from core.store.leases import Wish
from core.store.models import Job, LearnedValue, State, WakeUp
from core.store.outbox import publish
from tests.builders import claim, create, create_in, read, record


def outbox(sessions):
    with sessions() as session:
        return set(session.scalars(select(WakeUp.job_id)))


def act(sessions, action, project, job_id):
    with sessions.begin() as session:
        return action(session, project, job_id)


def end(sessions, project, job_id, state):
    """Bring a queued job into an ended state."""
    if state == State.CANCELLED:
        act(sessions, jobs.cancel, project, job_id)
        return
    lease = claim(sessions, job_id)
    with sessions.begin() as session:
        if state == State.FAILED:
            leases.fail(session, lease, "diverged", "it did", {"step": 3, "largest": float("nan")})
        else:
            leases.succeed(session, lease, best_iteration=0, evaluations={}, arrays={}, provenance={})


def test_a_new_job_is_queued_with_its_wake_up(sessions, project):
    job = read(sessions, project, create(sessions, project))
    assert (job.state, job.attempt, job.meta_iteration, job.num_iterations) == (State.QUEUED, 0, 0, 4)
    assert job.num_hyperparameters == 10 * 2 + 1
    assert job.groups == [
        {"name": "layer_1.weights", "shape": [64, 10]},
        {"name": "layer_1.biases", "shape": [10]},
    ]
    assert outbox(sessions) == {job.id}


def test_job_and_wake_up_come_together_or_not_at_all(sessions, project):
    def fail_after_creating():
        with sessions.begin() as session:
            create_in(session, project)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after_creating()
    assert outbox(sessions) == set()
    with sessions() as session:
        assert session.scalars(select(Job)).all() == []


def test_cancelling_a_queued_job_ends_it(sessions, project):
    job = act(sessions, jobs.cancel, project, create(sessions, project))
    assert job.state == State.CANCELLED
    assert job.ended_at is not None


def test_cancelling_a_running_job_asks_its_worker(sessions, project):
    job_id = create(sessions, project)
    lease = claim(sessions, job_id)
    job = act(sessions, jobs.cancel, project, job_id)
    assert (job.state, job.cancel_requested, job.ended_at) == (State.RUNNING, True, None)
    with sessions.begin() as session:
        assert leases.renew(session, lease, 60) is Wish.CANCEL


def test_a_second_cancel_changes_nothing(sessions, project):
    job_id = create(sessions, project)
    claim(sessions, job_id)
    first = act(sessions, jobs.cancel, project, job_id)
    again = act(sessions, jobs.cancel, project, job_id)
    assert (again.state, again.last_event) == (State.RUNNING, first.last_event)


def test_a_queued_job_is_paused_at_once_and_not_claimed_until_resumed(sessions, project):
    job_id = create(sessions, project)
    assert act(sessions, jobs.pause, project, job_id).state == State.PAUSED
    assert act(sessions, jobs.pause, project, job_id).state == State.PAUSED
    assert claim(sessions, job_id) is None
    with sessions.begin() as session:
        session.execute(delete(WakeUp))
    assert act(sessions, jobs.resume, project, job_id).state == State.QUEUED
    assert outbox(sessions) == {job_id}
    assert claim(sessions, job_id) is not None


def test_a_running_job_is_paused_by_its_worker_and_keeps_its_checkpoint(sessions, project):
    job_id = create(sessions, project)
    lease = claim(sessions, job_id)
    job = act(sessions, jobs.pause, project, job_id)
    assert (job.state, job.pause_requested) == (State.RUNNING, True)
    with sessions.begin() as session:
        assert leases.save_iteration(session, lease, record(0, best=0, best_loss=1.0)) is Wish.PAUSE
        leases.give_back(session, lease)
    job = read(sessions, project, job_id)
    assert (job.state, job.pause_requested, job.attempts_without_progress) == (State.PAUSED, False, 0)
    act(sessions, jobs.resume, project, job_id)
    with sessions() as session:
        assert leases.work(session, claim(sessions, job_id)).checkpoint.iteration == 1


def test_a_pause_that_is_taken_back_leaves_the_job_to_its_worker(sessions, project):
    job_id = create(sessions, project)
    lease = claim(sessions, job_id)
    act(sessions, jobs.pause, project, job_id)
    assert act(sessions, jobs.resume, project, job_id).state == State.RUNNING
    with sessions.begin() as session:
        assert leases.renew(session, lease, 60) is Wish.GO_ON


def test_a_paused_job_can_be_cancelled_and_a_job_to_be_cancelled_not_paused(sessions, project):
    paused, running = create(sessions, project), create(sessions, project)
    act(sessions, jobs.pause, project, paused)
    assert act(sessions, jobs.cancel, project, paused).state == State.CANCELLED
    claim(sessions, running)
    act(sessions, jobs.cancel, project, running)
    with pytest.raises(StateConflict, match="not to be cancelled"):
        act(sessions, jobs.pause, project, running)


@pytest.mark.parametrize("state", [State.QUEUED, State.SUCCEEDED])
def test_only_paused_jobs_are_resumed(sessions, project, state):
    job_id = create(sessions, project)
    if state == State.SUCCEEDED:
        end(sessions, project, job_id, state)
    with pytest.raises(StateConflict, match="only one that is paused"):
        act(sessions, jobs.resume, project, job_id)


def test_many_are_cancelled_together(sessions, project):
    with sessions.begin() as session:
        other = keys.ensure_project(session, "other")
    foreign = create(sessions, other)
    queued, paused, running, ended = (create(sessions, project) for _ in range(4))
    act(sessions, jobs.pause, project, paused)
    lease = claim(sessions, running)
    end(sessions, project, ended, State.FAILED)
    with sessions.begin() as session:
        assert jobs.cancel_all(session, project, state=State.PAUSED) == ([paused], False)
    with sessions.begin() as session:
        found, more = jobs.cancel_all(session, project)
    assert (set(found), more) == ({queued, running}, False)
    assert read(sessions, other, foreign).state == State.QUEUED
    assert read(sessions, project, ended).state == State.FAILED
    with sessions.begin() as session:
        assert leases.renew(session, lease, 60) is Wish.CANCEL
    with sessions.begin() as session:
        assert jobs.cancel_all(session, project) == ([], False)


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_an_ended_job_cannot_be_cancelled(sessions, project, state):
    job_id = create(sessions, project)
    end(sessions, project, job_id, state)
    with pytest.raises(StateConflict, match=f"is {state}") as caught:
        act(sessions, jobs.cancel, project, job_id)
    assert caught.value.details() == {"state": state}


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED])
def test_a_retry_queues_the_job_with_its_checkpoint(sessions, project, state):
    job_id = create(sessions, project)
    lease = claim(sessions, job_id)
    with sessions.begin() as session:
        leases.save_iteration(session, lease, record(0, best=0, best_loss=1.0))
        leases.give_back(session, lease)
    end(sessions, project, job_id, state)
    job = act(sessions, jobs.retry, project, job_id)
    assert (job.state, job.error, job.ended_at, job.cancel_requested) == (State.QUEUED, None, None, False)
    assert outbox(sessions) == {job_id}
    lease = claim(sessions, job_id)
    with sessions() as session:
        assert leases.work(session, lease).checkpoint.iteration == 1


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.SUCCEEDED])
def test_other_jobs_cannot_be_retried(sessions, project, state):
    job_id = create(sessions, project)
    if state == State.SUCCEEDED:
        end(sessions, project, job_id, state)
    elif state == State.RUNNING:
        claim(sessions, job_id)
    with pytest.raises(StateConflict, match="failed or cancelled"):
        act(sessions, jobs.retry, project, job_id)
    assert read(sessions, project, job_id).state == state


def test_only_ended_jobs_are_deleted_and_nothing_of_them_stays(sessions, project):
    job_id = create(sessions, project)
    with pytest.raises(StateConflict, match="cancel it first"):
        act(sessions, jobs.remove, project, job_id)
    lease = claim(sessions, job_id)
    with sessions.begin() as session:
        leases.save_iteration(session, lease, record(0))
        leases.cancelled(session, lease)
    act(sessions, jobs.remove, project, job_id)
    with sessions() as session:
        for table in (Job, LearnedValue, WakeUp):
            assert session.scalars(select(table)).all() == []


@pytest.mark.parametrize("action", [jobs.get, jobs.cancel, jobs.pause, jobs.resume, jobs.retry, jobs.remove])
def test_jobs_of_another_project_do_not_exist(sessions, project, action):
    job_id = create(sessions, project)
    with sessions.begin() as session:
        other = keys.ensure_project(session, "other")
    with pytest.raises(UnknownJob):
        act(sessions, action, other, job_id)
    with pytest.raises(UnknownJob):
        act(sessions, action, project, uuid4())
    assert read(sessions, project, job_id).state == State.QUEUED


def test_pages_hold_every_job_once_newest_first(sessions, project):
    created = [create(sessions, project, preset="even" if number % 2 == 0 else None) for number in range(7)]
    act(sessions, jobs.cancel, project, created[3])

    def walk(**filters):
        found, cursor = [], None
        while True:
            with sessions() as session:
                page = jobs.page(session, project, after=cursor, limit=2, **filters)
            assert len(page.jobs) <= 2
            found += [job.id for job in page.jobs]
            cursor = page.next
            if cursor is None:
                return found

    assert walk() == created[::-1]
    assert walk(preset="even") == created[::-2]
    assert walk(state=State.CANCELLED) == [created[3]]


def test_a_cursor_outlives_its_job(sessions, project):
    created = [create(sessions, project) for _ in range(3)]
    with sessions() as session:
        cursor = jobs.page(session, project, limit=1).next
    act(sessions, jobs.cancel, project, created[2])
    act(sessions, jobs.remove, project, created[2])
    with sessions() as session:
        assert [job.id for job in jobs.page(session, project, after=cursor).jobs] == created[1::-1]


def cursor_of(created_at):
    return base64.urlsafe_b64encode(f"{created_at} {uuid4()}".encode()).decode()


@pytest.mark.parametrize("created_at", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_cursor_of_another_age_is_only_a_place(sessions, project, created_at):
    with sessions() as session:
        assert jobs.page(session, project, after=cursor_of(created_at)) == ([], None)


@pytest.mark.parametrize(
    "cursor", ["", "x", "é", "\0", "MjAyNQ", "=" * 9, "515ee2fe-9c3a-4372-8e81-9bc8e9236fa6", "A" * 10_000]
)
def test_a_cursor_of_ones_own_is_refused(sessions, project, cursor):
    with sessions() as session, pytest.raises(InvalidCursor):
        jobs.page(session, project, after=cursor)


def test_publishing_waits_for_no_transaction_that_holds_a_job(sessions, project):
    """Two that wait for each other's rows would be a deadlock."""
    job_id = create(sessions, project)
    sent = []
    with sessions.begin() as holder:
        jobs.cancel(holder, project, job_id)
        with sessions.begin() as session:
            session.execute(text("SET LOCAL lock_timeout = '1s'"))
            assert publish(session, lambda one, queue: sent.append(one)) == 1
    assert sent == [job_id]


def test_readers_of_results_hold_up_no_worker(sessions, project):
    job_id = create(sessions, project)
    lease = claim(sessions, job_id)
    with sessions.begin() as session:
        leases.save_iteration(session, lease, record(0, best=0, best_loss=1.0))
    with sessions.begin() as reader:
        learned.read(reader, jobs.get(reader, project, job_id), "last")
        with sessions.begin() as session:
            session.execute(text("SET LOCAL lock_timeout = '1s'"))
            leases.renew(session, lease, 60.0)
