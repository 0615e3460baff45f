import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from sqlalchemy import text

from core.store import jobs, leases
from core.store.errors import Fenced, QuotaExceeded, StateConflict, UnknownJob
from core.store.models import Job
from tests.builders import create
from tests.store.projects import (
    GENEROUS,
    counted,
    do,
    limited,
    post,
    take,
    tallies,
    upload,
)


def random_step(sessions, project, rng, known, held, limits=GENEROUS):
    job_id = rng.choice(known) if known else None
    action = rng.choice(
        ["create", "claim", "claim", "cancel", "pause", "resume", "retry", "remove", "end", "reap", "upload"]
    )
    if action == "create" or job_id is None:
        known.append(post(sessions, project, limits))
    elif action == "claim":
        held[job_id] = take(sessions, job_id, limits) or held.get(job_id)
    elif action == "end" and held.get(job_id):
        ending = rng.choice(
            [leases.cancelled, leases.give_back, lambda s, lease: leases.fail(s, lease, "x", "x", {})]
        )
        do(sessions, ending, held[job_id])
    elif action == "reap":
        late = "UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE state = 'running' AND id = :id"
        do(sessions, lambda s: s.execute(text(late), {"id": job_id}))
        do(sessions, leases.reap, 3)
    elif action == "upload":
        upload(sessions, project, size=rng.randrange(1, 1000), table=rng.choice(["datasets", "programs"]))
    elif action in ("resume", "retry"):
        do(sessions, getattr(jobs, action), project, job_id, limits)
    elif action in ("cancel", "pause", "remove"):
        do(sessions, getattr(jobs, action), project, job_id)
        if action == "remove":
            known.remove(job_id)


@pytest.mark.parametrize("seed", range(3))
def test_tallies_are_what_a_count_finds_whatever_happens(sessions, project, other, seed):
    rng = random.Random(seed)
    known, held = {project: [], other: []}, {}
    for _step in range(60):
        whose = rng.choice([project, other])
        with suppress(StateConflict, Fenced):
            random_step(sessions, whose, rng, known[whose], held)
    assert tallies(sessions) == counted(sessions, [project, other])
    assert any(queued or running for queued, running, _ in tallies(sessions).values())


def test_many_rows_in_one_statement_are_tallied(sessions, project, other):
    first, second = create(sessions, project), create(sessions, other)
    upload(sessions, project, 5)
    upload(sessions, project, 7, table="programs")

    def multiply(session):
        columns = ", ".join(c.name for c in Job.__table__.columns if c.name != "id")
        session.execute(
            text(
                f"INSERT INTO jobs (id, {columns}) SELECT gen_random_uuid(), {columns} FROM jobs, generate_series(1, 100)"
            )
        )
        session.execute(
            text("UPDATE jobs SET state = 'paused' WHERE id <> ALL (:kept)"), {"kept": [first, second]}
        )

    do(sessions, multiply)
    assert tallies(sessions) == counted(sessions, [project, other])
    do(sessions, lambda s: s.execute(text("DELETE FROM datasets")))
    assert tallies(sessions) == counted(sessions, [project, other])
    do(sessions, lambda s: s.execute(text("DELETE FROM programs")))
    do(sessions, lambda s: s.execute(text("DELETE FROM jobs WHERE state = 'paused'")))
    assert tallies(sessions) == counted(sessions, [project, other])
    do(sessions, lambda s: s.execute(text("DELETE FROM projects WHERE id = :id"), {"id": other}))
    assert tallies(sessions) == counted(sessions, [project])


def test_without_the_triggers_tallies_would_be_wrong(sessions, project):
    do(sessions, lambda s: s.execute(text("ALTER TABLE jobs DISABLE TRIGGER tally_insert")))
    create(sessions, project)
    assert tallies(sessions) != counted(sessions, [project])


@pytest.mark.fault(
    injected="owners and workers of two projects at once", checked="no deadlock, tallies are what a count finds"
)
def test_many_at_once_never_deadlock_and_leave_true_tallies(sessions, project, other):
    """Creators, workers, owners and janitors on the same few jobs of two projects."""
    known = {
        project: [create(sessions, project) for _ in range(4)],
        other: [create(sessions, other) for _ in range(4)],
    }

    limits = limited(queued_jobs=5, running_jobs=2)

    def work(seed):
        rng = random.Random(seed)
        held = {}
        for _step in range(25):
            whose = rng.choice([project, other])
            with suppress(StateConflict, Fenced, UnknownJob, QuotaExceeded):
                random_step(sessions, whose, rng, list(known[whose]), held, limits)
                for lease in list(held.values()):
                    if lease is not None and rng.random() < 0.3:
                        do(sessions, leases.renew, lease, 60.0)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))  # a deadlock would raise OperationalError
    assert tallies(sessions) == counted(sessions, [project, other])
    assert max(running for _, running, _ in tallies(sessions).values()) <= 2
