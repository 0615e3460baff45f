"""A job that takes too much of its worker, or stands still, is noticed; any other is left alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.config import Settings
from core.errors import InvalidProblem, OutOfMemory, OutOfTime, Stalled
from tests.builders import eventually
from worker import guard, memory
from worker.guard import Guard, explained

MANY = 64 << 20


@pytest.fixture
def watch(monkeypatch):
    """Guard a job of these settings; `found` fills with what its process would end for."""
    monkeypatch.setattr(guard, "_LOOK_SECONDS", 0.005)
    guards = []

    def watch(seconds_before=0.0, **limits):
        found = []
        one = Guard(Settings(**limits), seconds_before, found.append)
        one.found = found
        guards.append(one)
        return one

    yield watch
    for one in guards:
        one.stop()


@pytest.fixture
def looks(monkeypatch):
    """Counts how often guards have looked."""
    counted, held = [], memory.held
    monkeypatch.setattr(memory, "held", lambda: counted.append(1) or held())
    return counted


def test_a_job_that_takes_more_memory_than_it_may_is_noticed_once(watch, looks):
    already = np.ones(2 * MANY, np.uint8)
    one = watch(job_memory_bytes=MANY)
    eventually(lambda: len(looks) > 5)
    assert one.found == []  # what the process held before the job is not the job's
    more = np.ones(2 * MANY, np.uint8)
    eventually(lambda: one.found)
    (error,) = one.found
    assert isinstance(error, OutOfMemory)
    assert error.details()["limit"] == MANY < error.details()["taken"]
    assert str(MANY) in str(error)
    assert len(already) == len(more)


def test_by_default_a_job_may_take_most_of_what_is_free(watch, looks, monkeypatch):
    monkeypatch.setattr(memory, "free", lambda: MANY)
    one = watch()
    more = np.ones(MANY * 2 // 3, np.uint8)
    eventually(lambda: len(looks) > 5)
    assert one.found == []
    more = [more, np.ones(MANY, np.uint8)]  # one of up to 32 MiB may come from memory that the process has kept
    eventually(lambda: one.found)
    assert len(more) == 2


def test_time_of_earlier_attempts_counts(watch):
    watch(job_seconds=60.0, seconds_before=50.0).check()
    with pytest.raises(OutOfTime, match="60 s"):
        watch(job_seconds=60.0, seconds_before=61.0).check()
    watch(seconds_before=1e9).check()


def test_a_job_out_of_time_that_never_comes_to_a_check_is_noticed(watch, looks, monkeypatch):
    patient = watch(job_seconds=0.001)
    eventually(lambda: len(looks) > 5)
    assert patient.found == []  # it is to come to a check first
    monkeypatch.setattr(guard, "_GRACE_SECONDS", 0.0)
    eventually(lambda: patient.found)
    assert isinstance(patient.found[0], OutOfTime)


def test_a_computation_without_a_sign_of_life_is_noticed(watch, looks):
    alive, silent, unwatched = watch(stalled_seconds=0.3), watch(stalled_seconds=0.3), watch(stalled_seconds=0)
    eventually(lambda: alive.check() or silent.found)
    assert isinstance(silent.found[0], Stalled)
    assert alive.found == unwatched.found == []


def test_a_want_of_memory_is_told_from_other_errors():
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.block_until_ready(jnp.zeros(1 << 55, jnp.uint8))
    error = explained(caught.value)
    assert isinstance(error, OutOfMemory)
    assert "RESOURCE_EXHAUSTED" in str(error)
    assert "batch" in str(error)
    with pytest.raises(MemoryError) as caught:
        np.zeros(1 << 55, np.uint8)
    assert isinstance(explained(caught.value), OutOfMemory)
    for other in (
        jax.errors.JaxRuntimeError("INTERNAL: x"),
        ValueError("RESOURCE_EXHAUSTED"),
        InvalidProblem("x"),
    ):
        assert explained(other) is other
