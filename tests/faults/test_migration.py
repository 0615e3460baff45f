"""A migration while the service that it migrates is at work: the code of the release before, with the schema of both."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest
from alembic import command

from core.store import jobs, keys, leases, migrate
from core.store.models import State
from core.store.session import close_store, open_store
from tests.builders import claim, create, eventually, read, record
from tests.faults import history
from tests.store.test_leases import write

BEFORE = "0003"
ROUNDS, CLIENTS, WORKERS, JANITORS = 2, 4, 2, 1


@pytest.fixture
def url(empty_database):
    migrate.upgrade(empty_database)
    return empty_database


@pytest.fixture
def sessions(url):
    opened = open_store(url)
    yield opened
    close_store(opened)


@pytest.fixture
def project(sessions):
    with sessions.begin() as session:
        project = keys.ensure_project(session, "default")
        keys.add(session, project, keys.new_key())
        return project


class Load:
    """Threads that make and claim jobs as the release before does: only with columns that it knows."""

    def __init__(self, url, columns):
        self._url = url.replace("+psycopg", "", 1)
        names = ", ".join(name for name in columns if name not in ("id", "created_at", "published_at"))
        self._insert = f"INSERT INTO jobs (id, {names}) SELECT gen_random_uuid(), {names} FROM jobs WHERE id = %s RETURNING id"
        self.made, self.claimed, self.sent = [], [], []
        self._over = threading.Event()

    def clients(self, template):
        with psycopg.connect(self._url) as connection:
            while not self._over.is_set():
                with connection.transaction():
                    connection.execute("SELECT project_id FROM api_keys WHERE prefix LIKE 'rg_%'")
                    (made,) = connection.execute(self._insert, (template,)).fetchone()
                    connection.execute("INSERT INTO outbox (job_id, queue) VALUES (%s, 'cpu')", (made,))
                self.made.append(made)

    def workers(self):
        with psycopg.connect(self._url) as connection:
            while not self._over.is_set():
                for job_id in self.made[len(self.claimed) :][:1]:
                    with connection.transaction():
                        won = connection.execute(
                            "UPDATE jobs SET state = 'running', attempt = attempt + 1, lease_epoch = lease_epoch + 1, "
                            "lease_expires_at = clock_timestamp() + interval '1 h' "
                            "WHERE id = %s AND state = 'queued' RETURNING id",
                            (job_id,),
                        ).fetchall()
                    self.claimed += [job_id for (job_id,) in won]

    def janitors(self):
        with psycopg.connect(self._url) as connection:
            while not self._over.is_set():
                with connection.transaction():
                    rows = connection.execute(
                        "SELECT job_id FROM outbox LIMIT 5 FOR UPDATE SKIP LOCKED"
                    ).fetchall()
                    ids = [job_id for (job_id,) in rows]
                    connection.execute("DELETE FROM outbox WHERE job_id = ANY(%s)", (ids,))
                    connection.execute(
                        "UPDATE jobs SET published_at = clock_timestamp() WHERE id = ANY(%s)", (ids,)
                    )
                self.sent += ids

    @contextmanager
    def at_work(self, template):
        with ThreadPoolExecutor(CLIENTS + WORKERS + JANITORS) as pool:
            running = [pool.submit(self.clients, template) for _ in range(CLIENTS)]
            running += [pool.submit(self.workers) for _ in range(WORKERS)]
            running += [pool.submit(self.janitors) for _ in range(JANITORS)]
            try:
                yield
            finally:
                self._over.set()
            for one in running:
                one.result()


@pytest.mark.fault(
    injected=f"down to {BEFORE} and up to head while jobs are made, published and claimed",
    checked="no call fails, no job is lost, head goes on with jobs made before",
    repetitions=ROUNDS,
)
def test_a_migration_under_load(url, sessions, project, noted):
    template = create(sessions, project)
    to_before = migrate.configuration(url)
    command.downgrade(to_before, BEFORE)
    load = Load(url, columns_of_jobs(url))
    with load.at_work(template):
        for _ in range(ROUNDS):
            more(load)
            migrate.upgrade(url)
            more(load)
            command.downgrade(to_before, BEFORE)
        more(load)
        migrate.upgrade(url)
        more(load)
    with sessions() as session:
        kept = dict(tuple(row) for row in session.execute(history.select(history.Job.id, history.Job.state)))
        waiting = set(session.scalars(history.select(history.WakeUp.job_id)))
    assert set(kept) == {template, *load.made}
    assert {job_id for job_id, state in kept.items() if state == State.RUNNING} == set(load.claimed)
    assert waiting == {template, *load.made} - set(load.sent)
    queued = next(job_id for job_id in load.made if kept[job_id] == State.QUEUED)
    lease = claim(sessions, queued)
    write(sessions, leases.save_iteration, lease, record(0, best=0, best_loss=1.0))
    write(sessions, jobs.pause, project, queued)
    write(sessions, leases.give_back, lease)
    assert read(sessions, project, queued).state == State.PAUSED
    noted(f"{len(load.made)} jobs made, {len(load.claimed)} claimed meanwhile")


@pytest.mark.fault(
    injected="a transaction as old as the index that a migration builds",
    checked="while it is built jobs are read and written; one that broke off is built anew",
)
def test_an_index_is_built_while_jobs_are_written(url, sessions, project):
    job_id = create(sessions, project)
    command.downgrade(migrate.configuration(url), "0006")
    address = url.replace("+psycopg", "", 1)
    building = "SELECT index_relid FROM pg_stat_progress_create_index"
    with (
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(address, autocommit=True) as service,
        psycopg.connect(address) as old,
    ):
        service.execute("CREATE INDEX ix_jobs_project_id_created_at_id_new ON jobs (id)")  # of one that broke off
        service.execute("SET lock_timeout = '2s'")
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT count(*) FROM projects")
        migrating = pool.submit(migrate.upgrade, url)
        eventually(lambda: service.execute(building).fetchall() or migrating.done())
        assert not migrating.done()
        service.execute("UPDATE jobs SET name = 'written' WHERE id = %s", (job_id,))
        assert service.execute("SELECT name FROM jobs").fetchall() == [("written",)]
        assert not migrating.done()
        old.rollback()
        migrating.result(60)
        named = "SELECT indexdef FROM pg_indexes WHERE indexname LIKE 'ix_jobs_project_id_created_at_id%'"
        ((index,),) = service.execute(named).fetchall()
    assert index.endswith("(project_id, created_at, id) INCLUDE (name, state, preset)")


def more(load):
    """Wait until the load goes on."""
    made, claimed, sent = len(load.made), len(load.claimed), len(load.sent)
    eventually(
        lambda: len(load.made) > made + CLIENTS and len(load.claimed) > claimed + WORKERS and len(load.sent) > sent
    )


def columns_of_jobs(url):
    with psycopg.connect(url.replace("+psycopg", "", 1)) as connection:
        return [
            name
            for (name,) in connection.execute(
                "SELECT column_name FROM information_schema.columns WHERE table_name = 'jobs' AND table_schema = 'public'"
            )
        ]


def test_jobs_come_through_down_and_up_unchanged(url, sessions, project):
    ids = [create(sessions, project) for _ in range(4)]
    lease = claim(sessions, ids[0])
    write(sessions, leases.save_iteration, lease, record(0, best=0, best_loss=1.0))
    write(sessions, leases.fail, claim(sessions, ids[1]), "diverged", "it did", {})
    write(sessions, jobs.cancel, project, ids[2])
    write(sessions, jobs.pause, project, ids[3])
    command.downgrade(migrate.configuration(url), BEFORE)
    with psycopg.connect(url.replace("+psycopg", "", 1)) as connection:
        found = dict(connection.execute("SELECT id, state FROM jobs").fetchall())
    assert [found[job_id] for job_id in ids] == ["running", "failed", "cancelled", "cancelled"]  # paused: unknown
    migrate.upgrade(url)
    job = read(sessions, project, ids[0])
    assert (job.meta_iteration, job.best_iteration, job.lease_epoch) == (1, 0, 1)
    write(sessions, leases.save_iteration, lease, record(1, best=0, best_loss=1.0))  # its worker goes on
    write(sessions, jobs.retry, project, ids[3])
    assert read(sessions, project, ids[3]).state == State.QUEUED
