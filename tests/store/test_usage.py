from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import select, text, update

from core.errors import Stalled
from core.store import leases, quotas
from core.store.errors import Fenced, QuotaExceeded
from core.store.models import Job, Usage
from tests.builders import claim, create
from tests.store.projects import do, limited, messages, post, state_of, take


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
    "lose": lambda s, lease: leases.lose(s, lease, 3, Stalled(1)),
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
