"""A process that dies with a job leaves a note, by which the job goes on at once."""

import subprocess
import sys

import pytest
from sqlalchemy import text

from core.store import leases
from core.store.models import State
from tests.builders import claim, create, read
from worker import memory, postmortem

MAX_ATTEMPTS = 2


@pytest.fixture
def kills(monkeypatch):
    """Sets how often the kernel has killed for want of memory."""

    def kills(count):
        monkeypatch.setattr(memory, "oom_kills", lambda: count)

    kills(4)
    return kills


@pytest.fixture
def lease(sessions, project, monkeypatch, kills):
    monkeypatch.setenv("RETROGRAD_WORKER_NOTE", "")
    postmortem.provide()
    return claim(sessions, create(sessions, project))


def test_a_job_is_queued_again_at_once_and_charged(sessions, project, lease):
    postmortem.note(lease)
    postmortem.settle(sessions, MAX_ATTEMPTS)
    job = read(sessions, project, lease.job_id)
    assert (job.state, job.attempts_without_progress, job.lease_expires_at) == (State.QUEUED, 1, None)
    postmortem.settle(sessions, MAX_ATTEMPTS)  # once
    assert read(sessions, project, lease.job_id).last_event == job.last_event


@pytest.mark.parametrize(("after", "code"), [(4, "worker_lost"), (5, "out_of_memory"), (None, "worker_lost")])
def test_the_last_attempt_says_what_ended_it(sessions, project, lease, kills, after, code):
    postmortem.note(lease)
    postmortem.settle(sessions, MAX_ATTEMPTS)
    kills(4)
    postmortem.note(claim(sessions, lease.job_id))
    kills(after)
    postmortem.settle(sessions, MAX_ATTEMPTS)
    job = read(sessions, project, lease.job_id)
    assert (job.state, job.error["code"]) == (State.FAILED, code)


def test_a_job_that_came_to_its_end_is_left_alone(sessions, project, lease):
    postmortem.note(lease)
    with sessions.begin() as session:
        leases.fail(session, lease, "code", "message", {})
    before = read(sessions, project, lease.job_id)
    postmortem.settle(sessions, MAX_ATTEMPTS)
    after = read(sessions, project, lease.job_id)
    assert (after.state, after.error, after.last_event) == (before.state, before.error, before.last_event)


def test_a_job_that_another_worker_has_is_left_alone(sessions, project, lease):
    postmortem.note(lease)
    with sessions.begin() as session:
        session.execute(text("UPDATE jobs SET lease_expires_at = clock_timestamp() - interval '1 s'"))
        leases.reap(session, 3)
        other = leases.claim(session, lease.job_id, 60)
    postmortem.settle(sessions, MAX_ATTEMPTS)
    job = read(sessions, project, lease.job_id)
    assert (job.state, job.lease_epoch) == (State.RUNNING, other.epoch)


def test_without_a_note_nothing_happens(sessions, project, lease, monkeypatch):
    postmortem.settle(sessions, MAX_ATTEMPTS)
    postmortem.note(lease)
    postmortem.erase()
    postmortem.settle(sessions, MAX_ATTEMPTS)
    monkeypatch.delenv("RETROGRAD_WORKER_NOTE")
    postmortem.note(lease)
    postmortem.settle(sessions, MAX_ATTEMPTS)
    assert read(sessions, project, lease.job_id).state == State.RUNNING


def test_a_child_writes_and_another_reads(sessions, project, lease):
    program = f"""
from uuid import UUID
from core.store.leases import Lease
from worker import postmortem
postmortem.note(Lease(UUID("{lease.job_id}"), {lease.epoch}, {lease.attempt}))
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    postmortem.settle(sessions, MAX_ATTEMPTS)
    assert read(sessions, project, lease.job_id).state == State.QUEUED
