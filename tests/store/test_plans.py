"""What is asked every second, or by every client, reads as many rows as it returns, however many there are.

Postgres itself says so: each statement is run again under EXPLAIN ANALYZE, in a database with thousands of jobs.
"""

import json
from contextlib import contextmanager

import pytest
from sqlalchemy import event, text, update

from benchmarks.filling import fill
from core.store import cursors, deliveries, idempotency, jobs, leases, outbox, quotas, retention, tracking
from core.store.models import Job, State
from core.store.session import close_store, open_store
from tests.builders import eventually
from tests.conftest import database

JOBS = 6000
LIMIT = 20


@pytest.fixture(scope="module")
def filled(postgres, migrated):
    with database(postgres, migrated) as url:
        sessions = open_store(url)
        projects = fill(url, JOBS, histories=False).projects
        with sessions.begin() as session:  # of each an end that is a run by now
            ends = "SELECT id, 1, NULL FROM jobs WHERE ended_at IS NOT NULL"
            session.execute(text(f"INSERT INTO tracked_ends (job_id, event, next_attempt_at) {ends}"))
            session.execute(text("ANALYZE tracked_ends"))
        yield sessions, projects
        close_store(sessions)


@pytest.fixture(scope="module")
def vacuumed(filled):
    """As autovacuum leaves it: a vacuum passes over pages that something else holds just then."""
    sessions, projects = filled
    unseen = text("SELECT relpages - relallvisible FROM pg_class WHERE relname = 'jobs'")
    with sessions.kw["bind"].connect().execution_options(isolation_level="AUTOCOMMIT") as connection:

        def is_clean():
            connection.execute(text("VACUUM (ANALYZE) jobs"))
            return connection.scalar(unseen) == 0

        eventually(is_clean)
    return sessions, projects


@contextmanager
def statements(session):
    """Those that are run within the block, as (text, parameters)."""
    found = []

    def note(connection, cursor, statement, parameters, context, executemany):
        found.append((statement, parameters))

    engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", note)
    yield found
    event.remove(engine, "before_cursor_execute", note)


def rows_read(session, operation):
    """Rows that the statements of `operation` read from tables, whether or not they were what was looked for."""
    with statements(session) as found:
        operation(session)
    connection = session.connection()
    plans = []
    for statement, parameters in found:
        (document,) = connection.exec_driver_sql(
            f"EXPLAIN (ANALYZE, FORMAT JSON, TIMING OFF) {statement}", parameters
        ).one()
        plans.append((json.loads(document) if isinstance(document, str) else document)[0]["Plan"])
    return sum(_read(plan) for plan in plans), plans


def _read(plan):
    here = 0
    if "Relation Name" in plan:
        each = (
            plan["Actual Rows"]
            + plan.get("Rows Removed by Filter", 0)
            + plan.get("Rows Removed by Index Recheck", 0)
        )
        here = round(each * plan["Actual Loops"])
    return here + sum(_read(inner) for inner in plan.get("Plans", ()))


@pytest.mark.parametrize("which", [0, -1], ids=["large project", "small project"])
@pytest.mark.parametrize("page", [0, 1], ids=["first page", "later page"])
@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"state": "succeeded"},
        {"state": "queued"},
        {"preset": "chaos"},
        {"preset": "no-such-preset"},
        {"state": "failed", "preset": "chaos"},
        {"state": "paused", "preset": "no-such-preset"},
    ],
    ids=lambda filters: " ".join(filters.values()) or "all",
)
def test_a_page_of_jobs_reads_no_more_than_it_shows(filled, which, page, filters):
    sessions, projects = filled
    with sessions() as session:
        first = jobs.page(session, projects[which], limit=3 * LIMIT).jobs
        middle = first[len(first) // 2]
        after = cursors.encode(middle.created_at, middle.id) if page else None
        read, plans = rows_read(
            session, lambda session: jobs.page(session, projects[which], **filters, after=after, limit=LIMIT)
        )
    assert read <= LIMIT + 1, plans


@pytest.mark.parametrize("filters", [{}, {"state": "failed"}, {"preset": "chaos"}], ids=str)
@pytest.mark.parametrize("search", ["zebra", "schedules 4", "z"], ids=str)
def test_a_search_reads_no_job_that_it_does_not_show(vacuumed, search, filters):
    """It may look through all names of a project, but in an index; rows are fifty times as large."""
    sessions, projects = vacuumed
    with sessions() as session:
        _, plans = rows_read(
            session, lambda session: jobs.page(session, projects[0], search=search, **filters, limit=LIMIT)
        )
    through = [one for plan in plans for one in _nodes(plan) if one["Node Type"] == "Index Only Scan"]
    assert sum(one["Heap Fetches"] for one in through) == 0
    assert sum(_read(plan) for plan in plans) - sum(map(_read, through)) <= LIMIT + 1, plans


def _nodes(plan):
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


ROUNDS = {  # what the janitor asks every second, whether or not there is anything to do
    "reap": lambda session: leases.reap(session, 3),
    "is anything to be published": outbox.is_empty,
    "publish": lambda session: outbox.publish(session, lambda job_id, queue: None),
    "is anything held": quotas.holding,
    "forget": idempotency.forget,
    "sweep": lambda session: retention.sweep(session, 3.0),
    "sweep where ends become runs": lambda session: retention.sweep(session, 3.0, tracked=True),
    "is any run to be written": lambda session: tracking.claim(session, 60.0),
    "forget ends that nobody writes": lambda session: tracking.forget(session, 3600.0),
    "is anything to be delivered": lambda session: deliveries.claim(session, 30.0),
    "is anything overdue": lambda session: outbox.overdue_queues(session, 30.0),
}


@pytest.mark.parametrize("duty", ROUNDS.values(), ids=ROUNDS)
def test_a_round_with_nothing_to_do_reads_next_to_nothing(filled, duty):
    sessions, _ = filled
    with sessions() as session:
        read, plans = rows_read(session, duty)
    assert read <= 2, plans


def test_in_a_backlog_only_what_is_published_at_once_is_read(filled):
    sessions, _ = filled
    with sessions() as session:
        session.execute(text("INSERT INTO outbox (job_id, queue) SELECT id, queue FROM jobs"))
        session.execute(text("ANALYZE outbox"))
        read, plans = rows_read(session, ROUNDS["publish"])
    assert read <= 4 * 100, plans  # found, deleted, and their jobs marked


@pytest.mark.slow
def test_of_many_jobs_that_wait_too_long_a_few_are_read(filled):
    sessions, _ = filled
    with sessions() as session:
        waiting = {"state": State.QUEUED, "ended_at": None, "lease_expires_at": None, "error": None}
        session.execute(update(Job).values(**waiting, published_at=text("created_at - interval '1 day'")))
        session.execute(text("ANALYZE jobs"))
        read, plans = rows_read(session, ROUNDS["is anything overdue"])
        assert read <= 5, plans
        assert outbox.republish(session, "cpu", 30.0, drained=True) == 100
        read, plans = rows_read(session, lambda session: outbox.republish(session, "cpu", 30.0, drained=True))
    assert read <= 4 * 100, plans
