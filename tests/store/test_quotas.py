import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID

import pytest
from pydantic import ValidationError
from sqlalchemy import func, select, text, update

from core.config import Settings
from core.quotas import Quotas
from core.shapes import groups_for
from core.spec import JobSpec
from core.store import jobs, keys, leases, outbox, quotas
from core.store.errors import Fenced, QuotaExceeded, StateConflict, UnknownJob
from core.store.events import Kind
from core.store.models import Event, Job, LearnedValue, OptimizerLeaf, State, Tally, Usage, WakeUp
from tests.builders import SMALL, claim, create, eventually, record, values
from worker.janitor import Janitor

GENEROUS = Settings().quotas
SPEC = JobSpec.model_validate(SMALL)


def limited(**limits):
    return GENEROUS.model_copy(update=limits)


def post(sessions, project, limits, *, queue="cpu", max_snapshot_bytes=1 << 20):
    with sessions.begin() as session:
        return jobs.create(
            session,
            project,
            SPEC,
            preset=None,
            queue=queue,
            groups=groups_for(SPEC),
            max_snapshot_bytes=max_snapshot_bytes,
            limits=limits,
        ).id


def do(sessions, operation, *arguments, **options):
    with sessions.begin() as session:
        return operation(session, *arguments, **options)


def take(sessions, job_id, limits):
    return do(sessions, leases.claim, job_id, 60.0, limits)


def state_of(sessions, job_id):
    with sessions.begin() as session:
        return session.execute(select(Job.state, Job.held).where(Job.id == job_id)).one()


def tallies(sessions):
    with sessions.begin() as session:
        projects = session.scalars(select(Tally.project_id).distinct()).all()
        return {project: tuple(quotas.used(session, project))[:3] for project in projects}


def counted(sessions, projects):
    """The oracle: what the tallies should be."""
    found = {}
    with sessions.begin() as session:
        for project in projects:
            states = Counter(session.scalars(select(Job.state).where(Job.project_id == project)))
            size = session.scalar(select(func.sum(Job.stored_bytes)).where(Job.project_id == project)) or 0
            sets = session.execute(
                text("SELECT sum(size) FROM datasets JOIN blobs USING (sha256) WHERE project_id = :project"),
                {"project": project},
            ).scalar()
            found[project] = (states[State.QUEUED], states[State.RUNNING], size + (sets or 0))
    return found


@pytest.fixture
def other(sessions):
    return do(sessions, keys.ensure_project, "other")


# Tallies


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
        upload(sessions, project, size=rng.randrange(1, 1000))
    elif action in ("resume", "retry"):
        do(sessions, getattr(jobs, action), project, job_id, limits)
    elif action in ("cancel", "pause", "remove"):
        do(sessions, getattr(jobs, action), project, job_id)
        if action == "remove":
            known.remove(job_id)


def upload(sessions, project, size):
    def insert(session):
        digest = f"{random.getrandbits(256):064x}"
        session.execute(text("INSERT INTO blobs (sha256, size) VALUES (:d, :s)"), {"d": digest, "s": size})
        session.execute(
            text("INSERT INTO datasets (id, project_id, name, sha256, summary) VALUES (:i, :p, '', :d, '{}')"),
            {"i": f"ds_{digest[:24]}", "p": project, "d": digest},
        )
        return f"ds_{digest[:24]}"

    return do(sessions, insert)


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


# Queued jobs


def test_of_many_at_once_exactly_as_many_are_queued_as_may_be(sessions, project):
    limits = limited(queued_jobs=7)
    ready = threading.Barrier(25)

    def one(_):
        ready.wait()
        try:
            return post(sessions, project, limits)
        except QuotaExceeded as error:
            return error.details()

    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(one, range(25)))
    assert sum(isinstance(answer, UUID) for answer in answers) == 7
    assert [answer for answer in answers if not isinstance(answer, UUID)] == [
        {"quota": "queued_jobs", "limit": 7, "used": 7}
    ] * 18
    assert tallies(sessions)[project][0] == 7
    with sessions.begin() as session:
        assert session.scalar(select(func.count()).select_from(WakeUp)) == 7  # nothing is left of the others


def test_a_count_that_locks_nothing_would_let_too_many_in(sessions, project):
    """The negative control: why the tally's row is locked."""
    inserted = threading.Barrier(2)
    queued = []

    def one(_):
        with sessions.begin() as session:
            queued.append(session.scalar(select(func.count()).where(Job.state == State.QUEUED)))
            inserted.wait()
            if queued[-1] < 1:
                jobs.create(
                    session, project, SPEC, preset=None, queue="cpu", groups=groups_for(SPEC), max_snapshot_bytes=1
                )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, range(2)))
    assert tallies(sessions)[project][0] == 2


@pytest.mark.parametrize(("limit", "waits"), [(100_000, False), (3, True)])
def test_far_from_a_quota_nobody_waits_for_another(sessions, project, limit, waits):
    limits = limited(queued_jobs=limit)
    create(sessions, project)
    with ThreadPoolExecutor(1) as pool:
        with sessions.begin() as session:
            quotas.check(session, project, limits, queued=1)
            other = pool.submit(post, sessions, project, limits)
            if waits:
                waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
                eventually(lambda: do(sessions, lambda session: session.scalar(waiting)))
                assert not other.done()
            else:
                other.result(10)
        other.result(10)


@pytest.mark.parametrize("action", ["retry", "resume"])
def test_a_retry_or_resume_is_one_more_in_the_queue(sessions, project, action):
    job_id = create(sessions, project)
    do(sessions, jobs.cancel if action == "retry" else jobs.pause, project, job_id)
    create(sessions, project)
    with pytest.raises(QuotaExceeded) as caught:
        do(sessions, getattr(jobs, action), project, job_id, limited(queued_jobs=1))
    assert caught.value.details() == {"quota": "queued_jobs", "limit": 1, "used": 1}
    assert state_of(sessions, job_id).state == (State.CANCELLED if action == "retry" else State.PAUSED)
    do(sessions, getattr(jobs, action), project, job_id, limited(queued_jobs=2))
    assert state_of(sessions, job_id).state == State.QUEUED


def test_taking_back_a_pause_queues_nothing(sessions, project):
    job_id = create(sessions, project)
    claim(sessions, job_id)
    do(sessions, jobs.pause, project, job_id)
    do(sessions, jobs.resume, project, job_id, limited(queued_jobs=0))
    assert state_of(sessions, job_id).state == State.RUNNING


def test_other_projects_are_not_counted(sessions, project, other):
    create(sessions, project)
    post(sessions, other, limited(queued_jobs=1))
    with pytest.raises(QuotaExceeded):
        post(sessions, other, limited(queued_jobs=1))


# Stored bytes


@pytest.mark.parametrize("max_snapshot_bytes", [1 << 20, 1], ids=["every iteration kept", "three kept"])
def test_a_job_is_counted_with_at_least_what_it_comes_to_store(sessions, project, max_snapshot_bytes):
    job_id = post(sessions, project, GENEROUS, max_snapshot_bytes=max_snapshot_bytes)
    lease = claim(sessions, job_id)
    do(sessions, leases.save_start, lease, values(0), {}, {})
    for number in range(4):
        do(sessions, leases.save_iteration, lease, record(number, best=1, best_loss=1.0))
    with sessions.begin() as session:
        stored = [
            session.scalar(select(func.sum(func.octet_length(table.data))).where(table.job_id == job_id))
            for table in (LearnedValue, OptimizerLeaf)
        ]
    assert 0 < sum(stored) <= tallies(sessions)[project][2] < 2 * sum(stored)


def test_beyond_the_stored_bytes_nothing_more_is_accepted_until_something_is_deleted(sessions, project):
    first = post(sessions, project, GENEROUS)
    size = tallies(sessions)[project][2]
    limits = limited(stored_bytes=2 * size - 1)
    with pytest.raises(QuotaExceeded, match=f"needs {size} more; delete") as caught:
        post(sessions, project, limits)
    assert caught.value.details() == {"quota": "stored_bytes", "limit": 2 * size - 1, "used": size}
    assert caught.value.retry_after is None
    do(sessions, jobs.cancel, project, first)
    do(sessions, jobs.remove, project, first)
    post(sessions, project, limits)


def test_uploaded_data_are_counted_too(sessions, project):
    upload(sessions, project, 1000)
    with sessions.begin() as session:
        quotas.check(session, project, limited(stored_bytes=1000), added_bytes=1000)
        with pytest.raises(QuotaExceeded) as caught:
            quotas.check(session, project, limited(stored_bytes=999), added_bytes=1000)
    assert caught.value.details()["used"] == 0


# Running jobs


def test_no_more_run_than_may_and_the_rest_wait(sessions, project):
    limits = limited(running_jobs=2)
    waiting = [create(sessions, project) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda job_id: take(sessions, job_id, limits), waiting))
    assert sum(lease is not None for lease in claimed) == 2
    assert tallies(sessions)[project][:2] == (6, 2)
    held = [job_id for job_id, lease in zip(waiting, claimed, strict=True) if lease is None]
    assert all(state_of(sessions, job_id).held for job_id in held)
    with sessions.begin() as session:
        row = session.execute(select(Job.attempt, Job.lease_epoch, Job.started_at).where(Job.id == held[0])).one()
        assert row == (0, 0, None)  # being held back is no attempt
        kinds = session.scalars(select(Event.kind).where(Event.job_id == held[0]).order_by(Event.number)).all()
        assert kinds == [Kind.CREATED, Kind.HELD]


@pytest.fixture
def janitor(sessions, settings):
    return Janitor(sessions, settings.model_copy(update={"quota_running_jobs": 1, "republish_seconds": 0.001}))


def messages(sessions):
    """Takes what is to be published, as a broker would."""
    with sessions.begin() as session:
        sent = []
        outbox.publish(session, lambda job_id, queue: sent.append(job_id))
        return sent


def test_when_one_ends_the_oldest_is_woken_and_only_that(sessions, project, other, janitor):
    limits = limited(running_jobs=1)
    first, second, third = [create(sessions, project) for _ in range(3)]
    messages(sessions)
    lease = take(sessions, first, limits)
    assert take(sessions, third, limits) is None
    assert take(sessions, second, limits) is None
    for _ in range(3):
        janitor.wake()
    assert messages(sessions) == []  # nothing is woken, again and again, while there is no room
    do(sessions, leases.cancelled, lease)
    for _ in range(3):
        janitor.wake()
    assert messages(sessions) == [second]  # once: it is on its way
    fresh = create(sessions, project)
    assert take(sessions, fresh, limits) is None  # third is older, and would never have its turn
    assert take(sessions, create(sessions, other), limits) is not None  # others do not wait
    lease = take(sessions, second, limits)
    assert lease is not None
    do(sessions, leases.cancelled, lease)
    messages(sessions)
    janitor.wake()
    assert messages(sessions) == [third]


def test_held_jobs_are_not_published_again_and_again(sessions, project):
    limits = limited(running_jobs=0)
    job_id = create(sessions, project)
    messages(sessions)
    assert take(sessions, job_id, limits) is None
    with sessions.begin() as session:
        assert outbox.overdue_queues(session, 0.0) == []
        assert outbox.republish(session, "cpu", 0.0, drained=True) == 0


def test_a_queue_without_workers_holds_up_no_other(sessions, project, janitor):
    create(sessions, project, queue="gpu")
    job_id = create(sessions, project)
    assert take(sessions, job_id, limited(running_jobs=0)) is None
    messages(sessions)
    janitor.wake()
    assert messages(sessions) == [job_id]


@pytest.mark.parametrize("action", [jobs.cancel, jobs.pause])
def test_a_held_job_can_be_cancelled_or_paused(sessions, project, janitor, action):
    job_id = create(sessions, project)
    messages(sessions)
    assert take(sessions, job_id, limited(running_jobs=0)) is None
    do(sessions, action, project, job_id)
    janitor.wake()
    assert messages(sessions) == []
    do(sessions, jobs.retry if action is jobs.cancel else jobs.resume, project, job_id)
    assert messages(sessions) == [job_id]
    assert take(sessions, job_id, limited(running_jobs=1)) is not None


# Time on devices


def age(sessions, lease, seconds):
    """Have the job run for some time already."""
    do(
        sessions,
        lambda s: s.execute(
            update(Job)
            .where(Job.id == lease.job_id)
            .values(accounted_at=Job.accounted_at - text(f"interval '{seconds} s'"))
        ),
    )


def usage(sessions, project):
    with sessions.begin() as session:
        return dict(
            session.execute(select(Usage.day, Usage.device_seconds).where(Usage.project_id == project)).all()
        )


ENDS = {
    "renew": lambda s, lease: leases.renew(s, lease, 60.0),
    "give back": leases.give_back,
    "cancelled": leases.cancelled,
    "fail": lambda s, lease: leases.fail(s, lease, "x", "x", {}),
    "succeed": lambda s, lease: leases.succeed(
        s, lease, best_iteration=0, evaluations={}, arrays={}, provenance={}
    ),
}


@pytest.mark.parametrize("operation", ENDS.values(), ids=ENDS)
def test_time_is_counted_at_heartbeats_and_ends_for_job_and_project_alike(sessions, project, operation):
    lease = claim(sessions, create(sessions, project))
    age(sessions, lease, 5)
    do(sessions, operation, lease)
    counted_for_project = sum(usage(sessions, project).values())
    assert 5 <= counted_for_project < 15
    with sessions.begin() as session:
        of_job = session.scalar(select(Job.device_seconds).where(Job.id == lease.job_id))
    assert of_job == pytest.approx(counted_for_project, abs=1e-5)


def test_no_second_is_counted_twice_nor_while_nobody_runs_the_job(sessions, project):
    job_id = create(sessions, project)
    for _ in range(3):
        lease = claim(sessions, job_id)
        age(sessions, lease, 10)
        for _beat in range(3):
            do(sessions, leases.renew, lease, 60.0)
        do(sessions, leases.give_back, lease)
        do(sessions, lambda s: s.execute(text("UPDATE jobs SET accounted_at = accounted_at - interval '1 hour'")))
    assert 30 <= sum(usage(sessions, project).values()) < 45


def test_what_a_fenced_worker_did_is_not_counted_again(sessions, project):
    lease = claim(sessions, create(sessions, project))
    do(sessions, lambda s: s.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s'")))
    do(sessions, leases.reap, 3)
    with pytest.raises(Fenced):
        do(sessions, leases.renew, lease, 60.0)
    assert usage(sessions, project) == {}


def test_many_workers_of_one_project_lose_no_second(sessions, project):
    held = [claim(sessions, create(sessions, project)) for _ in range(8)]
    for lease in held:
        age(sessions, lease, 100)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda lease: [do(sessions, leases.renew, lease, 60.0) for _ in range(5)], held))
    assert 800 <= sum(usage(sessions, project).values()) < 900


def test_time_over_midnight_is_counted_on_both_days(sessions, project):
    def charge(session):
        quotas.charge(
            session,
            project,
            datetime(2026, 1, 31, 23, 59, 50, tzinfo=UTC),
            datetime(2026, 2, 2, 0, 0, 5, tzinfo=UTC),
        )
        quotas.charge(
            session, project, datetime(2026, 2, 2, 0, 0, 9, tzinfo=UTC), datetime(2026, 2, 2, 0, 0, 5, tzinfo=UTC)
        )
        quotas.charge(session, project, None, datetime(2026, 2, 2, 0, 0, 5, tzinfo=UTC))

    do(sessions, charge)
    assert {f"{day}": seconds for day, seconds in usage(sessions, project).items()} == {
        "2026-01-31": 10.0,
        "2026-02-01": 86_400.0,
        "2026-02-02": 5.0,
    }


def test_on_a_day_that_is_used_up_nothing_begins_and_what_runs_goes_on(sessions, project, other, janitor):
    limits = limited(device_seconds_per_day=100)
    running, waiting = claim(sessions, create(sessions, project)), create(sessions, project)
    age(sessions, running, 101)
    do(sessions, leases.renew, running, 60.0)
    with pytest.raises(QuotaExceeded, match="midnight UTC") as caught:
        post(sessions, project, limits)
    assert caught.value.details() == {"quota": "device_seconds_per_day", "limit": 100, "used": 101}
    assert 0 < caught.value.retry_after <= 86_400
    assert take(sessions, waiting, limits) is None
    assert state_of(sessions, waiting).held
    assert do(sessions, leases.renew, running, 60.0) is leases.Wish.GO_ON
    assert take(sessions, create(sessions, other), limits) is not None
    messages(sessions)
    assert do(sessions, quotas.wake, project, "cpu", limits) == 0
    do(sessions, lambda s: s.execute(text("UPDATE usage SET day = day - 1")))  # midnight passes
    assert do(sessions, quotas.wake, project, "cpu", limits) == 1
    assert messages(sessions) == [waiting]
    assert take(sessions, waiting, limits) is not None


# Limits


def test_a_project_may_have_limits_of_its_own(sessions, project, other):
    do(sessions, quotas.set_own, project, {"queued_jobs": 3, "stored_bytes": 0}, GENEROUS)
    assert do(sessions, quotas.of, project, GENEROUS) == limited(queued_jobs=3, stored_bytes=0)
    assert do(sessions, quotas.of, other, GENEROUS) == GENEROUS
    do(sessions, quotas.set_own, project, {"stored_bytes": None}, GENEROUS)
    assert do(sessions, quotas.of, project, GENEROUS) == limited(queued_jobs=3)


@pytest.mark.parametrize(
    "own",
    [{"queued": 1}, {"queued_jobs": -1}, {"queued_jobs": "many"}, {"queued_jobs": 1.5}, {"queued_jobs": True}],
)
def test_wrong_limits_are_not_written_and_when_read_they_are_left_out(sessions, project, own, caplog):
    with pytest.raises(ValidationError):
        do(sessions, quotas.set_own, project, own, GENEROUS)
    do(sessions, lambda s: s.execute(update(quotas.Project).values(quotas=own | {"running_jobs": 5})))
    assert do(sessions, quotas.of, project, GENEROUS) == limited(running_jobs=5)
    assert do(sessions, quotas.of, project, GENEROUS) == limited(running_jobs=5)
    assert caplog.text.count("left out") <= 1  # said once


def test_default_limits_are_valid():
    assert isinstance(GENEROUS, Quotas)
    assert GENEROUS.hyperparameters_per_job == Settings().max_hyperparameters
