"""Faults around POST: its answer lost, and a broker that is away, forgets or hangs."""

import os
import signal
import statistics
import time
from contextlib import contextmanager

import httpx
import pytest

from core.store import keys
from tests.builders import document, eventually
from tests.conftest import serving
from tests.faults import history
from tests.faults.dying import BEFORE_REPLY
from tests.faults.service import Caller
from worker.janitor import Janitor

REPETITIONS = 2
ROUNDS, POSTS = 3, 15


@pytest.mark.fault(
    injected="kill -9 of the API between commit and reply, the client tries again with its key",
    checked="the job is there, once, and wakes a worker",
    repetitions=REPETITIONS,
)
def test_an_api_killed_before_its_reply_has_lost_nothing(service, caller, store, broker):
    for number in range(REPETITIONS):
        service.stop("api")
        service.start("api", "tests.faults.dying", BEFORE_REPLY)
        dying = service.process("api")
        name, key = f"answer {number}", f"key {number}"
        bearer = service.settings.bootstrap_api_key.get_secret_value()
        headers = {"Authorization": f"Bearer {bearer}", "Idempotency-Key": key}
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{service.url}/v1/jobs", json=document({"name": name}), headers=headers, trust_env=False)
        assert dying.wait(10) == -signal.SIGKILL
        assert named(store, name) == 1  # committed, though nobody was told
        service.stop("api")
        service.start("api")
        caller.submit(document({"name": name}), key=key)
        assert named(store, name) == 1
    eventually(lambda: broker.llen("cpu") >= REPETITIONS)
    assert caller.call("POST", "/v1/jobs/cancel").status_code == 202


def named(store, name):
    with store() as session:
        return len(session.scalars(history.select(history.Job.id).where(history.Job.name == name)).all())


@contextmanager
def frozen(valkey):
    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(valkey.pid, signal.SIGCONT)


@contextmanager
def stopped(valkey):
    valkey.stop()
    try:
        yield
    finally:
        valkey.start()


@pytest.mark.fault(
    injected="broker away",
    checked="POST answers 202 in its usual time, and every job is published afterwards",
    repetitions=ROUNDS * POSTS,
)
@pytest.mark.parametrize("away", [frozen, stopped], ids=["frozen", "killed"])
def test_post_does_not_wait_for_the_broker(sessions, settings, valkey, broker, away, noted):
    usual, meanwhile = [], []
    with serving(settings) as client:
        post(client)  # the first opens connections
        for number in range(4 * ROUNDS):  # in turn, so that a busy machine is busy for both
            usual += [post(client) for _ in range(POSTS)]
            with away(valkey):
                meanwhile += [post(client) for _ in range(POSTS)]
            usual_ms, away_ms = (1000 * statistics.median(times) for times in (usual, meanwhile))
            if number + 1 >= ROUNDS and away_ms < 1.5 * usual_ms + 5:
                break  # more rounds only where noise may be why; no waiting would be gone with them
        janitor = Janitor(sessions, settings)
        janitor.round()
        assert broker.llen("cpu") >= POSTS
        assert away_ms < 1.5 * usual_ms + 5
        assert max(meanwhile) < 1.0 + max(usual)
        noted(f"median {usual_ms:.1f} ms usually, {away_ms:.1f} ms meanwhile")
        assert client.post("/v1/jobs/cancel").status_code == 202
    janitor.round()
    history.check(sessions)


def post(client):
    began = time.perf_counter()
    answer = client.post("/v1/jobs", json=document())
    seconds = time.perf_counter() - began
    assert answer.status_code == 202, answer.text
    return seconds


def test_a_caller_gives_up_when_nothing_answers():
    with Caller("http://127.0.0.1:9", keys.new_key(), seconds=0.2) as caller, pytest.raises(AssertionError):
        caller.look("x")
