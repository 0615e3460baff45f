import json
import math
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import func, select, text

from core.records import Evaluation, Losses
from core.store import deliveries, events, jobs, leases, webhooks
from core.store.errors import UnknownDelivery
from core.store.models import Delivery
from tests.builders import claim, create, read, record, values
from tests.store.test_leases import expire, write

FOUND = Evaluation(Losses(1.0, 2.0, math.nan, 4.0), {"test_accuracy": 0.5})
URL = "https://example.com/hook"


@pytest.fixture
def job_id(sessions, project):
    return with_webhook(sessions, project)


def with_webhook(sessions, project, url=URL):
    job_id = create(sessions, project)
    write(sessions, webhooks.attach, job_id, url, "whsec_")
    return job_id


def cancelled(sessions, project, url=URL):
    job_id = with_webhook(sessions, project, url)
    write(sessions, jobs.cancel, project, job_id)
    return job_id


def told(sessions, job_id):
    """Oldest first."""
    with sessions() as session:
        return list(deliveries.newest(session, job_id, 100))[::-1]


def take(sessions, seconds=60.0, authorities=(), projects=()):
    with sessions.begin() as session:
        return deliveries.claim(session, seconds, authorities=authorities, projects=projects)


def fall_due(sessions):
    write(sessions, lambda session: session.execute(text("UPDATE deliveries SET next_attempt_at = now()")))


def kinds(sessions, job_id):
    with sessions() as session:
        return [event.kind for event in events.page(session, job_id, after=0, limit=100)]


def test_each_end_is_told_once_in_words_that_do_not_change(sessions, project, job_id):
    lease = claim(sessions, job_id)
    write(sessions, leases.save_start, lease, values(0), {"initial": FOUND}, {})
    write(sessions, leases.save_iteration, lease, record(0, best=0, best_loss=1.0))
    assert told(sessions, job_id) == []
    write(sessions, leases.fail, lease, "diverged", "it did", {"step": 3})
    write(sessions, jobs.retry, project, job_id)
    write(sessions, jobs.cancel, project, job_id)
    write(sessions, jobs.retry, project, job_id)
    lease = claim(sessions, job_id)
    end = {"initial": FOUND, "best": FOUND, "last": None}
    write(sessions, leases.succeed, lease, best_iteration=1, evaluations=end, arrays={}, provenance={})
    found = told(sessions, job_id)
    assert [one.kind for one in found] == ["job.failed", "job.cancelled", "job.succeeded"]
    failed, _, succeeded = (json.loads(one.payload) for one in found)
    assert failed["type"] == "job.failed"
    assert failed["data"]["job"]["state"] == "failed"
    assert failed["data"]["job"]["error"] == {"code": "diverged", "message": "it did", "details": {"step": 3}}
    job = succeeded["data"]["job"]
    assert (job["id"], job["name"], job["state"], job["error"]) == (str(job_id), "small", "succeeded", None)
    assert (job["best_iteration"], job["meta_iteration"], job["num_iterations"]) == (1, 1, 4)
    assert job["losses"]["best"]["outer"] == 1.0
    assert job["losses"]["best"]["valid"] is None  # not a number
    assert datetime.fromisoformat(succeeded["timestamp"]) == read(sessions, project, job_id).ended_at
    assert max(len(one.payload) for one in found) < 2000
    assert all(one.attempt == 0 and one.next_attempt_at <= datetime.now(UTC) for one in found)


@pytest.mark.parametrize("wish", [None, jobs.cancel])
def test_an_end_that_the_janitor_or_a_worker_that_leaves_makes_is_told_too(sessions, project, job_id, wish):
    lease = claim(sessions, job_id)
    if wish is not None:
        write(sessions, wish, project, job_id)
        write(sessions, leases.give_back, lease)
    else:
        expire(sessions, job_id)
        write(sessions, leases.reap, 1)
    assert [one.kind for one in told(sessions, job_id)] == ["job.failed" if wish is None else "job.cancelled"]


def test_what_is_undone_or_wanted_by_nobody_is_not_told(sessions, project, job_id):
    with sessions() as session:
        jobs.cancel(session, project, job_id)
        assert session.scalar(select(func.count()).select_from(Delivery)) == 1
        session.rollback()
    write(sessions, jobs.cancel, project, create(sessions, project))
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Delivery)) == 0


def test_what_was_told_goes_with_the_job(sessions, project):
    job_id = cancelled(sessions, project)
    due = take(sessions)
    write(sessions, jobs.remove, project, job_id)
    for settle in (
        deliveries.delivered,
        lambda *a: deliveries.failed(*a, "x", 1.0),
        lambda *a: deliveries.gone(*a, "x"),
    ):
        write(sessions, settle, due)  # on its way meanwhile
    assert take(sessions) is None


def test_a_delivery_is_taken_by_one_and_comes_up_again_when_that_one_is_lost(sessions, project):
    job_id = cancelled(sessions, project)
    with ThreadPoolExecutor(8) as pool:
        taken = [due for due in pool.map(lambda _: take(sessions), range(8)) if due is not None]
    (first,) = taken
    assert (first.job_id, first.url, first.authority, first.attempt) == (job_id, URL, "example.com", 1)
    assert abs(first.at - datetime.now(UTC)) < timedelta(seconds=30)
    assert take(sessions) is None
    fall_due(sessions)
    second = take(sessions)
    assert (second.id, second.payload, second.attempt) == (first.id, first.payload, 2)
    write(sessions, deliveries.failed, first, "late", None)  # of the one that was lost: there was another since
    assert told(sessions, job_id)[0].next_attempt_at is not None
    write(sessions, deliveries.delivered, first)  # but received is received
    write(sessions, deliveries.failed, second, "too late", 1.0)
    (settled,) = told(sessions, job_id)
    assert settled.delivered_at is not None
    assert (settled.next_attempt_at, settled.last_error, settled.attempt) == (None, None, 2)


def test_a_failure_comes_up_again_when_it_is_due_and_no_more_when_given_up(sessions, project):
    job_id = cancelled(sessions, project)
    write(sessions, deliveries.failed, take(sessions), "answered 500", 3600.0)
    (waiting,) = told(sessions, job_id)
    assert waiting.last_error == "answered 500"
    assert abs(waiting.next_attempt_at - datetime.now(UTC) - timedelta(hours=1)) < timedelta(seconds=30)
    assert take(sessions) is None
    fall_due(sessions)
    write(sessions, deliveries.failed, take(sessions), "answered 502", None)
    (given_up,) = told(sessions, job_id)
    assert (given_up.next_attempt_at, given_up.delivered_at) == (None, None)
    assert (given_up.attempt, given_up.last_error) == (2, "answered 502")


def test_what_is_due_longest_comes_first_and_crowded_receivers_are_passed_over(sessions, project):
    urls = ["https://a.example/1", "https://a.example/2", "https://a.example:8443/", "https://b.example/"]
    for url in urls:
        cancelled(sessions, project, url)
    assert take(sessions).url == urls[0]
    assert take(sessions, authorities=["a.example"]).url == urls[2]
    assert take(sessions, authorities=["a.example", "a.example:8443"]).url == urls[3]
    assert take(sessions, authorities=["a.example"]) is None
    assert take(sessions).url == urls[1]


def test_one_that_is_gone_is_told_no_more_until_asked_anew(sessions, project):
    job_id = cancelled(sessions, project)
    write(sessions, jobs.retry, project, job_id)
    write(sessions, jobs.cancel, project, job_id)
    other = cancelled(sessions, project)
    first = take(sessions)
    write(sessions, deliveries.gone, first, "answered 410")
    write(sessions, deliveries.gone, first, "answered 410")
    assert {one.last_error for one in told(sessions, job_id)} == {"answered 410"}
    assert {one.next_attempt_at for one in told(sessions, job_id)} == {None}
    with sessions() as session:
        assert webhooks.of(session, job_id).disabled_at is not None
    assert kinds(sessions, job_id).count("webhook_disabled") == 1
    write(sessions, jobs.retry, project, job_id)
    write(sessions, jobs.cancel, project, job_id)
    assert len(told(sessions, job_id)) == 2
    assert take(sessions).job_id == other
    write(sessions, deliveries.again, job_id, first.id)
    with sessions() as session:
        assert webhooks.of(session, job_id).disabled_at is None
    again = take(sessions)
    assert (again.id, again.attempt, again.payload) == (first.id, 1, first.payload)
    assert kinds(sessions, job_id)[-1] == "webhook_enabled"
    assert take(sessions) is None


def test_deliveries_of_a_project_can_be_passed_over(sessions, project):
    cancelled(sessions, project)
    assert take(sessions, projects=[project]) is None
    assert take(sessions, projects=[uuid4()]).project_id == project


def test_only_a_delivery_of_the_job_is_sent_anew(sessions, project, job_id):
    other = told(sessions, cancelled(sessions, project))[0]
    for delivery_id in (other.id, uuid4()):
        with pytest.raises(UnknownDelivery):
            write(sessions, deliveries.again, job_id, delivery_id)


def test_finding_what_is_due_reads_no_settled_rows(sessions, project):
    job_id = cancelled(sessions, project)
    with sessions.begin() as session:
        session.execute(
            text(
                "INSERT INTO deliveries (id, job_id, kind, payload, attempt, next_attempt_at) SELECT gen_random_uuid(), "
                "job_id, kind, payload, 1, CASE WHEN n % 2 = 0 THEN now() + interval '1 h' END "
                "FROM deliveries, generate_series(1, 4000) n"
            )
        )
    with sessions() as session:
        session.execute(text("ANALYZE deliveries"))
        plan = "\n".join(
            session.scalars(
                text(
                    "EXPLAIN SELECT d.id FROM deliveries d JOIN webhooks w USING (job_id) "
                    "WHERE d.next_attempt_at <= statement_timestamp() ORDER BY d.next_attempt_at LIMIT 1 "
                    "FOR UPDATE OF d SKIP LOCKED"
                )
            )
        )
    assert "Index Cond: (next_attempt_at <= statement_timestamp())" in plan
    assert take(sessions).job_id == job_id
