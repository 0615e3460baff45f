"""Whatever a client sends twice under one key is done once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import func, select, text

from core.store import keys
from core.store.models import IdempotencyKey, Job, WakeUp
from tests.api.problems import assert_problem
from tests.builders import document

PARALLEL = 50


def post(client, key, changes=None, **options):
    return client.post("/v1/jobs", headers={"Idempotency-Key": key}, **({"json": document(changes)} | options))


def count(sessions, table):
    with sessions() as session:
        return session.scalar(select(func.count()).select_from(table))


def test_the_same_request_again_is_answered_with_its_job_as_it_is_now(client, sessions):
    first = post(client, "one two")
    assert first.status_code == 202
    assert "Idempotent-Replayed" not in first.headers
    client.post(f"{first.headers['Location']}/cancel")
    again = post(client, "one two")
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (202, "true")
    assert again.headers["Location"] == first.headers["Location"]
    assert (again.json()["id"], again.json()["state"]) == (first.json()["id"], "cancelled")
    assert count(sessions, Job) == 1


def test_formatting_and_defaults_make_no_other_request(client, sessions):
    first = post(client, "k").json()
    defaults = client.get(f"/v1/jobs/{first['id']}").json()["spec"]
    reordered = dict(reversed(list(defaults.items())))
    assert post(client, "k", json=reordered).json()["id"] == first["id"]
    preset = client.post("/v1/jobs?preset=digits-schedules", headers={"Idempotency-Key": "p"}).json()
    assert post(client, "p", json=preset["spec"]).json()["id"] == preset["id"]
    assert count(sessions, Job) == 2


def test_a_webhook_is_part_of_the_request_and_its_secret_is_shown_again(client):
    webhook = {"url": "https://example.com/hook"}
    first = post(client, "k", {"webhook": webhook}).json()
    assert first["webhook"]["secret"]
    assert post(client, "k", {"webhook": webhook}).json()["webhook"] == first["webhook"]  # its answer may be lost
    assert_problem(post(client, "k"), 409, "idempotency_conflict")
    assert_problem(post(client, "k", {"webhook": {"url": "https://example.com"}}), 409, "idempotency_conflict")


@pytest.mark.parametrize("changes", [{"name": "other"}, {"training.num_steps": 11}])
def test_another_request_with_the_key_is_refused(client, sessions, changes):
    post(client, "k")
    assert_problem(post(client, "k", changes), 409, "idempotency_conflict")
    assert count(sessions, Job) == 1
    assert post(client, "l", changes).status_code == 202


def test_a_deleted_job_is_gone_for_its_key(client, sessions):
    location = post(client, "k").headers["Location"]
    client.post(f"{location}/cancel")
    client.delete(location).raise_for_status()
    assert_problem(post(client, "k"), 410, "idempotent_job_deleted")
    assert_problem(post(client, "k", {"name": "other"}), 409, "idempotency_conflict")
    assert count(sessions, Job) == 0


def test_keys_of_projects_do_not_meet(client, sessions):
    key = keys.new_key()
    with sessions.begin() as session:
        keys.add(session, keys.ensure_project(session, "other"), key)
    ours = post(client, "k").json()["id"]
    theirs = client.post(
        "/v1/jobs",
        json=document({"name": "theirs"}),
        headers={"Idempotency-Key": "k", "Authorization": f"Bearer {key}"},
    )
    assert theirs.status_code == 202
    assert theirs.json()["id"] != ours


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", b"\xc3\xa9", b"\x80"])
def test_a_key_is_up_to_255_printable_characters(client, sessions, key):
    problem = assert_problem(post(client, key), 422, "invalid_parameter")
    assert problem["errors"][0]["loc"] == ["header", "Idempotency-Key"]
    assert count(sessions, Job) == 0
    assert post(client, "x" * 255).status_code == 202


def test_what_is_refused_leaves_its_key_free(client, sessions):
    assert_problem(post(client, "k", {"training.num_steps": 0}), 422, "invalid_spec")
    big = {"hyperparameters.step_size.per": ["step", "weight"], "training.num_steps": 1_000_000}
    assert_problem(post(client, "k", big), 422, "invalid_spec")  # found after the key was taken
    assert count(sessions, IdempotencyKey) == 0
    assert post(client, "k").status_code == 202


def test_a_job_that_could_not_be_committed_leaves_its_key_free(client, sessions):
    with sessions.begin() as session:
        session.execute(
            text("CREATE FUNCTION refuse() RETURNS trigger AS 'BEGIN RAISE ''full''; END' LANGUAGE plpgsql")
        )
        session.execute(
            text(
                "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON jobs DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION refuse()"
            )
        )
    assert_problem(post(client, "k"), 500, "internal_error")
    with sessions.begin() as session:
        session.execute(text("DROP TRIGGER refuse ON jobs"))
    assert "Idempotent-Replayed" not in post(client, "k").headers


FAULT = pytest.mark.fault(injected="50 parallel POSTs with one key", checked="one job, one answer", repetitions=20)


@pytest.mark.parametrize("repetitions", [3, pytest.param(20, marks=[pytest.mark.slow, FAULT])])
def test_of_fifty_at_once_one_makes_the_job(client, sessions, repetitions):
    limits = httpx.Limits(max_connections=PARALLEL)
    with (
        httpx.Client(base_url=client.base_url, headers=client.headers, limits=limits, timeout=60) as many,
        ThreadPoolExecutor(PARALLEL) as pool,
    ):
        for repetition in range(repetitions):
            key, together = str(uuid4()), threading.Barrier(PARALLEL)

            def race(_, key=key, together=together):
                together.wait()
                return post(many, key)

            answers = list(pool.map(race, range(PARALLEL)))
            assert {answer.status_code for answer in answers} == {202}
            assert len({answer.json()["id"] for answer in answers}) == 1
            assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
            for table in (Job, WakeUp, IdempotencyKey):
                assert count(sessions, table) == repetition + 1


def test_without_a_key_every_request_makes_a_job(client, sessions):
    """The negative control of the race."""
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: client.post("/v1/jobs", json=document()).json()["id"], range(8)))
    assert len(made) == count(sessions, Job) == 8
