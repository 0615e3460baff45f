"""Jobs that ended long ago go, with all that is theirs; no other job does."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from core.store import deliveries, jobs, leases, retention, webhooks
from core.store.models import Base, State
from tests.builders import claim, create, read, record

OLD, DAYS = 40, 30


@pytest.fixture
def ended(sessions, project):
    """Make a job that failed a number of days ago, with a meta-iteration."""

    def ended(days):
        job_id = create(sessions, project)
        lease = claim(sessions, job_id)
        with sessions.begin() as session:
            leases.save_iteration(session, lease, record(0, best=0, best_loss=1.0))
            leases.fail(session, lease, "code", "message", {})
            session.execute(
                text("UPDATE jobs SET ended_at = ended_at - make_interval(days => :days) WHERE id = :id"),
                {"days": days, "id": job_id},
            )
        return job_id

    return ended


def sweep(sessions):
    with sessions.begin() as session:
        return retention.sweep(session, DAYS)


def left(sessions):
    with sessions() as session:
        return set(session.scalars(text("SELECT id FROM jobs")))


def test_old_ended_jobs_go_with_all_their_rows(sessions, ended):
    recent = ended(OLD - 20)
    ended(OLD)
    assert sweep(sessions) == 1
    assert left(sessions) == {recent}
    with sessions() as session:
        for table in Base.metadata.sorted_tables:
            if "job_id" in table.columns:
                assert set(session.scalars(text(f"SELECT job_id FROM {table.name}"))) <= {recent}, table.name
    assert sweep(sessions) == 0


def test_no_unended_job_goes_however_old(sessions, project):
    """The control: all states that are no end, with times long past."""
    kept = [create(sessions, project) for _ in range(3)]
    claim(sessions, kept[1])
    with sessions.begin() as session:
        jobs.pause(session, project, kept[2])
        session.execute(
            text(
                "UPDATE jobs SET (created_at, published_at, started_at, last_progress_at) = "
                "(SELECT t, t, t, t FROM (SELECT now() - interval '9 years' AS t))"
            )
        )
    assert {read(sessions, project, job_id).state for job_id in kept} == {
        State.QUEUED,
        State.RUNNING,
        State.PAUSED,
    }
    assert sweep(sessions) == 0
    assert left(sessions) == set(kept)


def test_a_retried_job_stays(sessions, project, ended):
    retried = ended(OLD)
    with sessions.begin() as session:
        jobs.retry(session, project, retried)
        assert sweep(sessions) == 0  # its row is locked by the retry
    assert sweep(sessions) == 0
    assert left(sessions) == {retried}


def test_of_several_janitors_one_sweeps_at_a_time_and_each_job_goes_once(sessions, ended):
    for _ in range(60):
        ended(OLD)
    recent, together = ended(1), threading.Barrier(4)

    def janitor(_):
        together.wait()
        return sum(sweep(sessions) for _ in range(10))

    with ThreadPoolExecutor(4) as pool:
        deleted = list(pool.map(janitor, range(4)))
    assert sum(deleted) + sweep(sessions) + sweep(sessions) == 60
    assert left(sessions) == {recent}


def test_while_one_sweeps_others_pass(sessions, ended):
    ended(OLD)
    with sessions.begin() as session:
        assert retention.sweep(session, DAYS) == 1
        assert sweep(sessions) == 0
    assert left(sessions) == set()


def test_a_job_stays_until_its_webhook_is_told_or_given_up(sessions, project):
    job_id = create(sessions, project)
    with sessions.begin() as session:
        webhooks.attach(session, job_id, "https://receiver.example/", "whsec_")
    lease = claim(sessions, job_id)
    with sessions.begin() as session:
        leases.fail(session, lease, "code", "message", {})
        session.execute(text(f"UPDATE jobs SET ended_at = ended_at - interval '{OLD} days'"))
    assert sweep(sessions) == 0
    with sessions.begin() as session:
        due = deliveries.claim(session, 60.0)
        deliveries.failed(session, due, "gone", None)
    assert sweep(sessions) == 1
