"""Janitors that are killed in the middle of a round: the next one does what was left."""

import base64
import json
import signal

import pytest

from core.store.models import State
from tests.builders import claim, create, eventually, read
from tests.conftest import running
from tests.faults import history
from tests.faults.dying import MID_PUBLISH, MID_REAP
from tests.store.test_leases import expire
from worker.janitor import Janitor

DEATHS = 2


def die(moment, settings, folder):
    with running("tests.faults.dying", settings, folder / "log", moment) as process:
        assert process.wait(60) == -signal.SIGKILL, (folder / "log").read_text()


def messages(broker, job_id):
    """How many there are about a job."""
    bodies = [base64.b64decode(json.loads(message)["body"]).decode() for message in broker.lrange("cpu", 0, -1)]
    return sum(str(job_id) in body for body in bodies)


@pytest.mark.fault(
    injected="kill -9 of the janitor between a message and the commit of its wake-up",
    checked="every job has a message, the outbox is empty",
    repetitions=DEATHS,
)
def test_a_janitor_killed_while_publishing_loses_no_wake_up(sessions, project, settings, broker, tmp_path, noted):
    ids = [create(sessions, project) for _ in range(3)]
    for _ in range(DEATHS):
        die(MID_PUBLISH, settings, tmp_path)
        assert waiting(sessions) == set(ids)  # a message is out, its wake-up is kept
    Janitor(sessions, settings).round()
    assert waiting(sessions) == set()
    sent = [messages(broker, job_id) for job_id in ids]
    assert sent == [DEATHS + 1, 1, 1]
    history.check(sessions, at_rest=False)
    noted(f"messages about each job: {sent}")


@pytest.mark.fault(
    injected="kill -9 of the janitor before it commits what it took from lost workers",
    checked="the jobs stay theirs until the next janitor queues them, once",
    repetitions=DEATHS,
)
def test_a_janitor_killed_while_reaping_takes_nothing(sessions, project, settings, broker, tmp_path):
    settings = settings.model_copy(update={"heartbeat_seconds": 0.5})  # two of which a new janitor lets pass first
    ids = [create(sessions, project) for _ in range(2)]
    for job_id in ids:
        claim(sessions, job_id)
        expire(sessions, job_id)
    for _ in range(DEATHS):
        die(MID_REAP, settings, tmp_path)
        assert {read(sessions, project, job_id).state for job_id in ids} == {State.RUNNING}
    janitor = Janitor(sessions, settings)
    eventually(lambda: janitor.round() or read(sessions, project, ids[0]).state == State.QUEUED)
    found = history.check(sessions, at_rest=False)
    assert [[event.kind for event in one.events] for one in found] == [["created", "started", "requeued"]] * 2
    assert [messages(broker, job_id) for job_id in ids] == [
        2,
        2,
    ]  # of its creation, which those that died sent, and this


def waiting(sessions):
    with sessions() as session:
        return set(session.scalars(history.select(history.WakeUp.job_id)))
