import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, text

from core import presets
from core.spec import JobSpec
from core.store import idempotency, jobs, keys
from core.store.errors import IdempotencyConflict, IdempotentJobDeleted
from core.store.models import IdempotencyKey, Job
from tests.builders import SMALL, create_in, document

A, B = b"a" * 32, b"b" * 32


def create_once(sessions, project, key="key", request=A):
    """A job's id, and whether it was made now."""
    with sessions.begin() as session:
        made = idempotency.take(session, project, key, request)
        if made is not None:
            return made, False
        job_id = create_in(session, project)
        idempotency.keep(session, project, key, job_id)
        return job_id, True


def age(sessions, hours):
    with sessions.begin() as session:
        session.execute(text(f"UPDATE idempotency_keys SET created_at = created_at - interval '{hours} hours'"))


def count(sessions, table):
    with sessions() as session:
        return session.scalar(select(func.count()).select_from(table))


def test_a_key_leads_to_its_first_job_until_a_day_is_over(sessions, project):
    first = create_once(sessions, project)
    assert first[1]
    assert create_once(sessions, project) == (first[0], False)
    age(sessions, 23)
    assert create_once(sessions, project) == (first[0], False)
    age(sessions, 2)
    second = create_once(sessions, project, request=B)
    assert second[1]
    assert second[0] != first[0]
    assert create_once(sessions, project, request=B) == (second[0], False)


def test_another_request_another_key_another_project(sessions, project):
    first, _ = create_once(sessions, project)
    with pytest.raises(IdempotencyConflict, match="'key' was sent with another request"):
        create_once(sessions, project, request=B)
    with sessions.begin() as session:
        other = keys.ensure_project(session, "other")
    made = {first, create_once(sessions, project, key="Key")[0], create_once(sessions, other)[0]}
    assert len(made) == 3


def test_a_deleted_job_is_not_made_again(sessions, project):
    job_id, _ = create_once(sessions, project)
    with sessions.begin() as session:
        jobs.cancel(session, project, job_id)
        jobs.remove(session, project, job_id)
    with pytest.raises(IdempotentJobDeleted):
        create_once(sessions, project)
    assert count(sessions, Job) == 0


def test_a_creation_that_fails_leaves_its_key_free(sessions, project):
    with sessions() as session:
        assert idempotency.take(session, project, "key", A) is None
        session.rollback()
    assert create_once(sessions, project, request=B)[1]


def test_who_comes_second_waits_for_the_first(sessions, project):
    """Whatever becomes of it: committed, its job is found; undone, the second makes one."""
    for finish in ("commit", "rollback"):
        with sessions() as session, ThreadPoolExecutor(1) as pool:
            assert idempotency.take(session, project, finish, A) is None
            first = create_in(session, project)
            idempotency.keep(session, project, finish, first)
            second = pool.submit(create_once, sessions, project, finish)
            with pytest.raises(TimeoutError):
                second.result(timeout=0.2)
            getattr(session, finish)()
            assert second.result() == (first, False) if finish == "commit" else second.result()[1]
    assert count(sessions, Job) == 2


@pytest.mark.parametrize("expired", [False, True])
def test_of_many_at_once_one_makes_the_job(sessions, project, expired):
    if expired:
        create_once(sessions, project)
        age(sessions, 25)
    together = threading.Barrier(16)

    def race(_):
        together.wait()
        return create_once(sessions, project)

    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(race, range(16)))
    assert sum(new for _, new in made) == 1
    assert len({job_id for job_id, _ in made}) == 1


def test_old_keys_are_forgotten_and_those_in_use_are_not(sessions, project):
    for key in ("old", "renewed", "held"):
        create_once(sessions, project, key)
    age(sessions, 25)
    create_once(sessions, project, "young")
    create_once(sessions, project, "renewed")
    with sessions() as holder:
        assert idempotency.take(holder, project, "held", A) is None
        with sessions.begin() as session:
            assert idempotency.forget(session) == 1
        holder.rollback()
    with sessions.begin() as session:
        assert idempotency.forget(session) == 1
        assert set(session.scalars(select(IdempotencyKey.key))) == {"renewed", "young"}
        assert idempotency.forget(session) == 0
    assert count(sessions, Job) == 5  # no job goes with its key


def digest(spec, preset=None, **beside):
    return idempotency.digest(spec, preset, {"webhook": None} | beside)


def test_the_digest_is_of_what_is_asked_for():
    spec = JobSpec.model_validate(SMALL)
    found = digest(spec)
    reordered = JobSpec.model_validate(dict(reversed(list(document().items()))))
    assert digest(reordered) == found
    spelled_out = JobSpec.model_validate(spec.model_dump(mode="json"))
    assert digest(spelled_out) == found
    assert digest(spec, "digits-schedules") != found
    for change in ({"name": "other"}, {"training.num_steps": 11}, {"meta.num_iterations": 5}):
        assert digest(JobSpec.model_validate(document(change))) != found
    assert digest(spec, webhook={"url": "https://example.com", "secret": None}) != found
    assert len({digest(presets.get(name), name) for name in presets.names()}) == len(presets.names())
