import base64
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from core.config import Settings
from core.errors import InternalError
from core.store import idempotency, jobs, leases
from core.store.models import IdempotencyKey, Job, State, WakeUp
from retrograd.local.servers import free_port
from tests.builders import claim, create, eventually, read
from tests.conftest import running
from worker.janitor import Janitor


@pytest.fixture
def broker(valkey):
    with redis.Redis.from_url(valkey.url) as client:
        yield client


@pytest.fixture
def janitor(sessions, settings):
    return Janitor(sessions, settings)


def outbox(sessions):
    with sessions() as session:
        return len(session.scalars(select(WakeUp.job_id)).all())


def test_the_outbox_is_published_once(sessions, project, janitor, broker):
    created = {str(create(sessions, project)) for _ in range(3)}
    janitor.round()
    janitor.round()
    bodies = [base64.b64decode(json.loads(message)["body"]).decode() for message in broker.lrange("cpu", 0, -1)]
    assert len(bodies) == 3
    assert {job_id for job_id in created if any(job_id in body for body in bodies)} == created
    assert outbox(sessions) == 0


def test_jobs_go_to_the_queue_they_were_made_for(sessions, project, janitor, broker):
    create(sessions, project, queue="gpu")
    janitor.round()
    assert (broker.llen("gpu"), broker.llen("cpu")) == (1, 0)


def test_more_than_a_batch_is_published_in_one_round(sessions, project, janitor, broker):
    for _ in range(205):
        create(sessions, project)
    janitor.round()
    assert broker.llen("cpu") == 205


def test_several_janitors_publish_each_row_once(sessions, settings, project, broker):
    for _ in range(40):
        create(sessions, project)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: Janitor(sessions, settings).round(), range(4)))
    assert broker.llen("cpu") == 40


def test_a_job_whose_worker_was_lost_is_published_again(sessions, project, janitor, broker):
    job_id = create(sessions, project)
    janitor.round()
    claim(sessions, job_id)
    broker.flushall()
    with sessions.begin() as session:
        session.execute(text("UPDATE jobs SET lease_expires_at = clock_timestamp() - interval '1 s'"))
    janitor.round()
    assert read(sessions, project, job_id).state == State.QUEUED
    assert broker.llen("cpu") == 1


def test_a_wiped_broker_is_filled_again(sessions, settings, project, broker):
    janitor = Janitor(sessions, settings.model_copy(update={"republish_seconds": 0.001}))
    for _ in range(3):
        create(sessions, project)
    janitor.round()
    broker.flushall()
    janitor.round()  # notices
    janitor.round()  # publishes
    assert broker.llen("cpu") == 3


def test_messages_that_wait_are_not_doubled(sessions, settings, project, broker):
    janitor = Janitor(sessions, settings.model_copy(update={"republish_seconds": 0.001}))
    create(sessions, project)
    for _ in range(5):
        janitor.round()
    assert broker.llen("cpu") == 1


def test_a_lost_message_is_noticed_in_a_queue_that_never_drains(sessions, settings, project, broker):
    janitor = Janitor(sessions, settings.model_copy(update={"republish_seconds": 0.001}))
    lost = create(sessions, project)
    janitor.round()
    broker.flushall()
    later = [create(sessions, project) for _ in range(2)]
    janitor.round()
    janitor.round()
    assert broker.llen("cpu") == 2  # nothing has overtaken it yet: its message may still wait
    claim(sessions, later[0])
    janitor.round()  # notices
    janitor.round()  # publishes
    bodies = [base64.b64decode(json.loads(message)["body"]).decode() for message in broker.lrange("cpu", 0, -1)]
    assert [sum(str(job_id) in body for body in bodies) for job_id in (lost, *later)] == [1, 1, 1]


def test_a_job_is_not_published_again_too_soon(sessions, project, janitor, broker):
    create(sessions, project)
    janitor.round()
    broker.flushall()
    janitor.round()
    assert (broker.llen("cpu"), outbox(sessions)) == (0, 0)


def test_without_a_broker_leases_are_still_reaped_and_the_outbox_waits(sessions, settings, project, caplog):
    away = Settings(broker_url=f"redis://127.0.0.1:{free_port()}/0")
    janitor = Janitor(sessions, away)
    job_id = create(sessions, project)
    claim(sessions, job_id)
    with sessions.begin() as session:
        session.execute(text("UPDATE jobs SET lease_expires_at = clock_timestamp() - interval '1 s'"))
    for _ in range(3):
        janitor.round()
    assert read(sessions, project, job_id).state == State.QUEUED
    assert outbox(sessions) == 1
    assert caplog.text.count("publish failed") == 1  # said once, not in every round


def test_a_frozen_broker_holds_up_nobody_for_long(sessions, project, janitor, valkey, broker):
    create(sessions, project)
    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        janitor.round()
        assert time.monotonic() - began < 10
        assert outbox(sessions) == 1
    finally:
        os.kill(valkey.pid, signal.SIGCONT)
    janitor.round()
    assert outbox(sessions) == 0
    assert broker.llen("cpu") >= 1  # what was on its way may have arrived as well


def test_ended_jobs_go_when_the_settings_say_so(sessions, settings, project, janitor):
    def jobs_left():
        with sessions() as session:
            return session.scalar(text("SELECT count(*) FROM jobs"))

    for _ in range(3):
        create(sessions, project)
    with sessions.begin() as session:
        session.execute(text("UPDATE jobs SET state = 'cancelled', ended_at = now() - interval '2 days'"))
    waits = create(sessions, project)
    janitor.round()
    assert jobs_left() == 4  # by default for ever
    for days, left in ((3, 4), (1, 1)):
        Janitor(sessions, settings.model_copy(update={"retention_days": days})).round()
        assert jobs_left() == left
    assert read(sessions, project, waits).state == State.QUEUED


def test_as_a_process_it_publishes_at_once_and_survives_its_servers(
    sessions, settings, project, broker, postgres, valkey, tmp_path
):
    patient = settings.model_copy(update={"janitor_seconds": 5.0})
    with running("worker.janitor", patient, tmp_path / "log") as process:
        eventually(lambda: "started" in (tmp_path / "log").read_text())
        create(sessions, project)
        began = time.monotonic()
        eventually(lambda: broker.llen("cpu") == 1)
        assert time.monotonic() - began < 4  # told by Postgres, not by its own round
    assert process.returncode == 0
    with running("worker.janitor", settings, tmp_path / "log") as process:
        eventually(lambda: (tmp_path / "log").read_text().count("started") == 2)
        for server in (valkey, postgres):
            server.stop()
            server.start()
        create(sessions, project)
        eventually(lambda: broker.llen("cpu") == 1)
        assert process.poll() is None
    assert process.returncode == 0


def test_idempotency_keys_are_forgotten_after_a_day(sessions, project, janitor):
    job_id = create(sessions, project)
    with sessions.begin() as session:
        for key in ("old", "new"):
            idempotency.take(session, project, key, b"x" * 32)
            idempotency.keep(session, project, key, job_id)
        session.execute(
            text("UPDATE idempotency_keys SET created_at = created_at - interval '25 hours' WHERE key = 'old'")
        )
    janitor.round()
    with sessions() as session:
        assert session.scalars(select(IdempotencyKey.key)).all() == ["new"]


def test_after_an_outage_workers_may_come_back_before_their_jobs_are_taken(
    sessions, settings, project, janitor, monkeypatch
):
    now = [1000.0]
    monkeypatch.setattr("worker.janitor.time.monotonic", lambda: now[0])
    job_id = create(sessions, project)
    claim(sessions, job_id)
    with sessions.begin() as session:
        session.execute(text("UPDATE jobs SET lease_expires_at = clock_timestamp() - interval '1 s'"))
    away = OperationalError("SELECT 1", {}, Exception("the server closed the connection"))
    janitor.failed("reap", away)
    janitor.reap()
    assert read(sessions, project, job_id).state == State.RUNNING
    now[0] += 2 * settings.heartbeat_seconds
    janitor.reap()
    assert read(sessions, project, job_id).state == State.QUEUED


def test_a_wake_up_is_not_sent_before_its_time(sessions, project, janitor, broker):
    job_id = create(sessions, project)
    janitor.round()
    lease = claim(sessions, job_id)
    with sessions.begin() as session:
        leases.lose(session, lease, 3, InternalError("x"), 60.0)
    janitor.round()
    assert (broker.llen("cpu"), outbox(sessions)) == (1, 1)
    with sessions.begin() as session:
        session.execute(text("UPDATE outbox SET created_at = created_at - interval '60 s'"))
    janitor.round()
    assert (broker.llen("cpu"), outbox(sessions)) == (2, 0)


def test_old_jobs_go_some_at_a_time(sessions, settings, project, monkeypatch):
    monkeypatch.setattr("core.store.retention._BATCH", 2)
    janitor = Janitor(sessions, settings.model_copy(update={"retention_days": 1.0}))
    for _ in range(5):
        job_id = create(sessions, project)
        with sessions.begin() as session:
            jobs.cancel(session, project, job_id)
    with sessions.begin() as session:
        session.execute(text("UPDATE jobs SET ended_at = ended_at - interval '2 days'"))
    left = []
    for _ in range(3):
        janitor.round()
        with sessions() as session:
            left.append(len(session.scalars(select(Job.id)).all()))
    assert left == [3, 1, 0]
