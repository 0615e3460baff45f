"""Ends of jobs that are to become runs: noted with the end, taken by one, settled once."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, text

from core.store import events, jobs, leases, retention, tracking
from core.store.models import TrackedEnd
from tests.builders import claim, create, record
from tests.store.test_leases import expire, write


@pytest.fixture
def job_id(sessions, project):
    return create(sessions, project)


@pytest.fixture
def ended(sessions, project, job_id):
    write(sessions, jobs.cancel, project, job_id)
    return job_id


def noted(sessions, job_id):
    with sessions() as session:
        query = select(TrackedEnd).where(TrackedEnd.job_id == job_id).order_by(TrackedEnd.event)
        return list(session.scalars(query))


def kinds(sessions, job_id):
    with sessions() as session:
        return {event.number: event.kind for event in events.page(session, job_id, after=0, limit=100)}


def take(sessions, seconds=60.0):
    return write(sessions, tracking.claim, seconds)


def fall_due(sessions):
    write(sessions, lambda session: session.execute(text("UPDATE tracked_ends SET next_attempt_at = now()")))


def test_every_end_is_noted_and_nothing_else(sessions, project, job_id):
    lease = claim(sessions, job_id)
    write(sessions, leases.save_iteration, lease, record(0, best=0, best_loss=1.0))
    assert noted(sessions, job_id) == []
    write(sessions, leases.fail, lease, "diverged", "it did", {})
    write(sessions, jobs.retry, project, job_id)
    write(sessions, jobs.cancel, project, job_id)
    write(sessions, jobs.retry, project, job_id)
    lease = claim(sessions, job_id)
    write(sessions, leases.succeed, lease, best_iteration=1, evaluations={}, arrays={}, provenance={})
    told = kinds(sessions, job_id)
    assert [told[one.event] for one in noted(sessions, job_id)] == ["failed", "cancelled", "succeeded"]
    with sessions() as session:
        assert events.latest_end(session, job_id) == noted(sessions, job_id)[-1].event


def test_an_end_that_the_janitor_makes_is_noted_too(sessions, job_id):
    claim(sessions, job_id)
    expire(sessions, job_id)
    write(sessions, leases.reap, 1)
    assert len(noted(sessions, job_id)) == 1


def test_what_is_undone_is_not_noted(sessions, project, job_id):
    with sessions() as session:
        jobs.cancel(session, project, job_id)
        session.rollback()
    assert noted(sessions, job_id) == []
    with sessions() as session:
        assert events.latest_end(session, job_id) is None


def test_of_eight_that_want_it_one_takes_it(sessions, ended):
    with ThreadPoolExecutor(8) as pool:
        taken = [due for due in pool.map(lambda _: take(sessions), range(8)) if due is not None]
    (due,) = taken
    assert (due.job_id, due.attempt) == (ended, 1)


def test_who_is_lost_loses_it_and_what_is_written_stays_so(sessions, ended):
    first = take(sessions, 0.0)
    second = take(sessions)
    assert (second.event, second.attempt) == (first.event, 2)
    assert not write(sessions, tracking.hold, first, 60.0)
    assert write(sessions, tracking.hold, second, 60.0)
    write(sessions, tracking.failed, first, "late", 0.0)  # changes nothing: there was an attempt since
    assert noted(sessions, ended)[0].last_error is None
    write(sessions, tracking.written, first, "run")  # but what is there is there
    write(sessions, tracking.failed, second, "it was there", 0.0)
    (settled,) = noted(sessions, ended)
    assert (settled.run_id, settled.next_attempt_at, settled.last_error) == ("run", None, None)
    assert not write(sessions, tracking.hold, second, 60.0)
    assert take(sessions) is None


def test_a_failure_comes_up_again_when_it_is_due(sessions, ended):
    write(sessions, tracking.failed, take(sessions), "away", 3600.0)
    assert take(sessions) is None
    assert noted(sessions, ended)[0].last_error == "away"
    fall_due(sessions)
    assert take(sessions).attempt == 2


def test_it_goes_with_its_job(sessions, project, ended):
    due = take(sessions)
    write(sessions, jobs.remove, project, ended)
    write(sessions, tracking.written, due, "run")
    write(sessions, tracking.failed, due, "away", 0.0)
    assert not write(sessions, tracking.hold, due, 60.0)
    assert take(sessions) is None


def test_what_nobody_writes_is_forgotten_and_what_is_written_is_not(sessions, project, ended):
    other = create(sessions, project)
    write(sessions, jobs.cancel, project, other)
    due = take(sessions)
    write(sessions, tracking.written, due, "run")
    assert write(sessions, tracking.forget, 3600.0) == 0
    assert write(sessions, tracking.forget, 0.0) == 1
    assert len(noted(sessions, ended)) + len(noted(sessions, other)) == 1
    assert len(noted(sessions, due.job_id)) == 1


def test_a_job_stays_until_its_run_is_written_where_runs_are_written(sessions, ended):
    age = text("UPDATE jobs SET ended_at = ended_at - interval '2 days'")
    write(sessions, lambda session: session.execute(age))
    assert write(sessions, retention.sweep, 1.0, tracked=True) == 0
    write(sessions, tracking.written, take(sessions), "run")
    assert write(sessions, retention.sweep, 1.0, tracked=True) == 1


def test_where_none_are_it_does_not(sessions, ended):
    age = text("UPDATE jobs SET ended_at = ended_at - interval '2 days'")
    write(sessions, lambda session: session.execute(age))
    assert write(sessions, retention.sweep, 1.0) == 1
