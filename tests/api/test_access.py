"""Who may do what: every route, every scope; and nothing of other projects shows."""

import asyncio
import io
import json
import re
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sqlalchemy import select, text

from api import deps
from api.app import create_app
from api.bootstrap import store_key
from core.store import blobs, keys, leases, programs, quotas, webhooks
from core.store.keys import Scope
from core.store.models import ApiKey
from retrograd.client import Client
from tests.api.problems import assert_problem
from tests.api.test_jobs import work
from tests.builders import document, eventually
from tests.conftest import running, serving
from tests.programs import making

PUBLIC = {"/healthz", "/readyz", "/metrics"}
"""What asks for no key (/metrics for a token of its own). All other routes do: a new one that does not fails the tests below."""

NEUTRAL = {"name": "losses", "form": "svg"}
"""Parameters of paths that belong to no project."""


def routes_of(app):
    """Path and method of every route, in whatever router."""

    def of(routes):
        for route in routes:
            if hasattr(route, "original_router"):
                yield from of(route.original_router.routes)
            elif getattr(route, "include_in_schema", False) or route.path.startswith(
                "/v1"
            ):  # pages: test_dashboard
                yield from ((route.path, method) for method in sorted(route.methods - {"HEAD"}))

    return sorted(set(of(app.routes)) - {(path, "GET") for path in PUBLIC})


def scope_of(path, method):
    """The oracle: what the contract says that a route needs."""
    if path.startswith("/v1/keys"):
        return Scope.ADMIN
    return Scope.READ if method == "GET" else Scope.WRITE


def fill(path, **values):
    found = re.sub(
        r"{(\w+)(?::\w+)?}", lambda match: str(values.get(match[1], NEUTRAL.get(match[1], uuid.uuid4()))), path
    )
    assert "{" not in found
    return found


@pytest.fixture
def served(settings):
    app = create_app(settings)
    with serving(settings) as client:
        yield routes_of(app), client


def key_with(sessions, scopes, project="default"):
    key = keys.new_key()
    with sessions.begin() as session:
        keys.add(session, keys.ensure_project(session, project), key, scopes=scopes)
    return {"Authorization": f"Bearer {key}"}


SETS = [{Scope.READ}, {Scope.WRITE}, {Scope.ADMIN}, {Scope.READ, Scope.WRITE}, set()]


def test_every_route_needs_a_key_with_its_scope(served, sessions):
    routes, client = served
    assert len(routes) >= 16
    holders = [(scopes, key_with(sessions, scopes)) for scopes in SETS]
    for path, method in routes:
        needed, url = scope_of(path, method), fill(path)
        for headers in ({"Authorization": ""}, {"Authorization": f"Bearer {keys.new_key()}"}):
            answer = client.request(method, url, headers=headers)
            assert_problem(answer, 401, "unauthorized")
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        for scopes, headers in holders:
            answer = client.request(method, url, headers=headers)
            if needed in scopes or Scope.ADMIN in scopes:
                assert answer.status_code not in (401, 403), (method, path, scopes, answer.text)
            else:
                problem = assert_problem(answer, 403, "forbidden")
                assert problem["scope"] == needed, (method, path)
                assert f"scope {needed}" in problem["detail"]


def test_a_route_that_asks_for_no_key_would_be_found(settings):
    """The negative control of the test above."""
    app = create_app(settings)
    known = routes_of(app)
    app.get("/v1/secrets")(lambda: "all of them")
    assert set(routes_of(app)) - set(known) == {("/v1/secrets", "GET")}


def test_ids_of_other_projects_are_unknown_on_every_route_in_identical_bytes(served, sessions):
    routes, client = served
    theirs = key_with(sessions, keys.ALL, "theirs")
    job = client.post("/v1/jobs", json=document(), headers=theirs).json()
    with sessions.begin() as session:
        webhooks.attach(session, uuid.UUID(job["id"]), "https://example.com", "whsec_" + "A" * 44)
    work(sessions, job)
    (delivery,) = client.get(f"/v1/jobs/{job['id']}/deliveries", headers=theirs).json()["data"]
    their_key = client.get("/v1/keys", headers=theirs).json()["data"][0]
    owned = {"job_id": job["id"], "key_id": their_key["id"], "dataset_id": upload(client, theirs)}
    owned["program_id"] = program(sessions, "theirs")
    owned["delivery_id"] = delivery["id"]
    unknown = {name: str(uuid.uuid4()) for name in owned}
    unknown |= {"dataset_id": f"ds_{uuid.uuid4().hex[:24]}", "program_id": f"pr_{uuid.uuid4().hex[:24]}"}
    checked = 0
    for path, method in routes:
        names = set(re.findall(r"{(\w+)}", path)) - NEUTRAL.keys()
        if not names:
            continue
        assert names <= owned.keys(), f"{path}: say above whose {names} are"
        there, nowhere = (client.request(method, fill(path, **ids)) for ids in (owned, unknown))
        assert there.status_code == nowhere.status_code == 404, (method, path, there.text)
        expected = nowhere.content
        for name in names:
            expected = expected.replace(unknown[name].encode(), owned[name].encode())
        assert there.content == expected
        assert without_date(there) == without_date(nowhere)
        checked += 1
    assert checked >= 10
    assert client.get(f"/v1/jobs/{job['id']}", headers=theirs).json()["state"] == "succeeded"
    assert client.get("/v1/keys", headers=theirs).json()["data"][0]["revoked_at"] is None
    assert client.get("/v1/jobs").json()["data"] == []
    assert their_key["id"] not in client.get("/v1/keys").text


def upload(client, headers):
    file = io.BytesIO()
    np.savez(file, inputs=np.eye(4), labels=np.arange(4) % 2)
    answer = client.post("/v1/datasets", data={"name": "x"}, files={"file": file.getvalue()}, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def program(sessions, name):
    with sessions.begin() as session:
        blobs.expect(session, "0" * 64, 7)
        project = keys.ensure_project(session, name)
        return programs.add(session, project, "x", "0" * 64, making.found())[0].row.id


def without_date(answer):
    return {name: value for name, value in answer.headers.items() if name != "date"}


def test_a_key_of_one_project_lists_and_cancels_nothing_of_another(client, sessions):
    theirs = key_with(sessions, keys.ALL, "theirs")
    job = client.post("/v1/jobs", json=document(), headers=theirs).json()
    assert client.post("/v1/jobs/cancel").json() == {"data": [], "more": False}
    assert client.get(f"/v1/jobs/{job['id']}", headers=theirs).json()["state"] == "queued"


# Managing keys


def test_a_key_is_shown_once_and_does_what_its_scopes_say(client):
    answer = client.post("/v1/keys", json={"name": "CI", "scopes": ["write", "write"]})
    assert answer.status_code == 201
    assert answer.headers["Cache-Control"] == "no-store"
    made = answer.json()
    assert (made["name"], made["scopes"], made["revoked_at"]) == ("CI", ["write"], None)
    assert made["key"].startswith(made["prefix"])
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert client.post("/v1/jobs", json=document(), headers=headers).status_code == 202
    assert client.get("/v1/jobs", headers=headers).status_code == 403  # write is without read
    listed = client.get("/v1/keys")
    assert made["key"] not in listed.text
    assert [key["name"] for key in listed.json()["data"]] == ["CI", ""]


def test_a_revoked_key_is_refused_at_once(client):
    made = client.post("/v1/keys", json={"name": "x", "scopes": ["read"]}).json()
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert client.get("/v1/jobs", headers=headers).status_code == 200
    assert client.delete(f"/v1/keys/{made['id']}").status_code == 204
    assert_problem(client.get("/v1/jobs", headers=headers), 401, "unauthorized")
    revoked = client.get("/v1/keys").json()["data"][-1]
    assert revoked["id"] == made["id"]
    assert client.delete(f"/v1/keys/{made['id']}").status_code == 204
    assert client.get("/v1/keys").json()["data"][-1]["revoked_at"] == revoked["revoked_at"]


def test_the_last_admin_key_stays(client, settings, sessions):
    (own,) = client.get("/v1/keys").json()["data"]
    client.post("/v1/keys", json={"scopes": ["read", "write"]})
    assert_problem(client.delete(f"/v1/keys/{own['id']}"), 409, "last_admin_key")
    client.post("/v1/keys", json={"scopes": ["admin"]})
    assert client.delete(f"/v1/keys/{own['id']}").status_code == 204
    assert client.get("/v1/keys").status_code == 401
    store_key(sessions, settings)  # as at every start
    assert client.get("/v1/keys").status_code == 401


def test_of_two_admins_who_revoke_each_other_at_once_one_stays(client, sessions):
    other = client.post("/v1/keys", json={"scopes": ["admin"]}).json()
    ids = [key["id"] for key in client.get("/v1/keys").json()["data"]]
    ready = threading.Barrier(2)
    ends = []

    def revoke(key_id):
        with sessions.begin() as session:
            session.execute(text("SELECT 1"))
            ready.wait()
            project = session.scalar(select(ApiKey.project_id).where(ApiKey.id == other["id"]))
            try:
                keys.revoke(session, project, uuid.UUID(key_id))
            except keys.LastAdminKey:
                ends.append(key_id)

    threads = [threading.Thread(target=revoke, args=(key_id,)) for key_id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ends) == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"scopes": []},
        {"scopes": ["root"]},
        {"scopes": "read"},
        {"scopes": ["read"], "name": "a\u0000b"},
        {"scopes": ["read"], "name": "x" * 101},
        {"scopes": ["read"], "key": "rg_mine"},
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(client, body):
    assert_problem(client.post("/v1/keys", json=body), 422, "invalid_spec")
    assert len(client.get("/v1/keys").json()["data"]) == 1


def test_there_is_an_end_to_keys(client, sessions):
    with sessions.begin() as session:
        project = keys.ensure_project(session, "default")
        for _ in range(keys.MOST_KEYS - 1):
            keys.create(session, project, "", [Scope.READ])
    assert_problem(client.post("/v1/keys", json={"scopes": ["read"]}), 409, "too_many_keys")
    assert len(client.get("/v1/keys").json()["data"]) == keys.MOST_KEYS


# Last use


def last_used(sessions):
    with sessions.begin() as session:
        return session.scalar(select(ApiKey.last_used_at))


def test_the_last_use_is_known_and_written_at_most_once_a_minute(client, sessions):
    client.get("/v1/jobs")
    first = eventually(lambda: last_used(sessions))
    for _ in range(5):
        client.get("/v1/jobs")
    with sessions.begin() as session:
        key_id = session.scalar(select(ApiKey.id))
        assert not keys.touch(session, key_id)  # by another process
        session.execute(text("UPDATE api_keys SET last_used_at = last_used_at - interval '61 s'"))
        assert keys.touch(session, key_id)
        assert not keys.touch(session, key_id)
    assert last_used(sessions) >= first


def test_neither_a_lock_nor_an_outage_of_the_last_use_holds_up_a_request(settings, sessions):
    with serving(settings) as client, sessions.begin() as session:
        session.execute(select(ApiKey.id).with_for_update())  # held by someone for long
        assert client.get("/v1/jobs").elapsed.total_seconds() < 2
        session.execute(text("ALTER TABLE api_keys RENAME COLUMN last_used_at TO gone"))
        session.commit()
    with serving(settings) as client:
        assert client.get("/v1/jobs").status_code == 200


# Operators and the command


def test_operators_make_projects(settings, sessions, tmp_path):
    log = tmp_path / "log"
    arguments = ["--project", "physics", "--key-name", "first", "--quota", "queued_jobs=1"]
    with running("api.bootstrap", settings, log, *arguments) as process:
        assert process.wait(60) == 0
    key = log.read_text().strip()
    with serving(settings, key=key) as client:
        project = client.get("/v1/project").json()
        assert (project["name"], project["quotas"]["queued_jobs"]) == ("physics", {"limit": 1, "used": 0})
        (row,) = client.get("/v1/keys").json()["data"]
        assert (row["name"], row["scopes"]) == ("first", ["admin"])
        assert client.post("/v1/jobs", json=document()).status_code == 202
        assert client.post("/v1/jobs", json=document()).status_code == 429
    with running("api.bootstrap", settings, log, "--project", "physics", "--quota", "jobs=1") as process:
        assert process.wait(60) == 2
    assert "--quota jobs" in log.read_text()


def test_keys_by_command(client, monkeypatch, capsys):
    from retrograd.cli import app

    monkeypatch.setenv("RETROGRAD_URL", str(client.base_url))
    monkeypatch.setenv("RETROGRAD_API_KEY", client.headers["Authorization"].removeprefix("Bearer "))

    def run(*arguments):
        app(["keys", *arguments], standalone_mode=False)
        return capsys.readouterr()

    shown = run("create", "CI", "--scope", "read")
    key = shown.out.strip()
    assert "not shown again" in shown.err
    listed = json.loads(run("list", "--json").out)
    assert [(one["name"], one["scopes"]) for one in listed] == [("CI", ["read"]), ("", ["admin", "read", "write"])]
    assert key[:9] in run("list").out
    with Client(str(client.base_url), key) as reader:
        assert reader.jobs.list() == []
        assert reader.project()["name"] == "default"
        run("revoke", key[:9])
        with pytest.raises(Exception, match="unauthorized"):
            reader.jobs.list()
    assert json.loads(run("create", "x", "--json").out)["scopes"] == ["read", "write"]
    with pytest.raises(Exception, match="no key in force starts"):
        run("revoke", key[:9])
    with pytest.raises(Exception, match="2 keys start"):
        run("revoke", "rg_")


# Quotas over HTTP


def test_quotas_and_what_is_used_of_them(client, sessions):
    assert client.get("/v1/project").json()["quotas"]["stored_bytes"]["used"] == 0
    job = client.post("/v1/jobs", json=document()).json()
    with sessions.begin() as session:
        lease = leases.claim(session, uuid.UUID(job["id"]), 60)
        session.execute(text("UPDATE jobs SET accounted_at = accounted_at - interval '7 s'"))
        leases.renew(session, lease, 60)
    client.post("/v1/jobs", json=document())
    shown = client.get("/v1/project").json()["quotas"]
    assert {name: quota["used"] for name, quota in shown.items() if name.endswith("jobs")} == {
        "queued_jobs": 1,
        "running_jobs": 1,
    }
    assert shown["stored_bytes"]["used"] > 0
    assert 7 <= shown["device_seconds_per_day"]["used"] < 30
    assert shown["hyperparameters_per_job"] == {"limit": 10_000_000, "used": None}


def test_of_fifty_parallel_posts_exactly_as_many_are_queued_as_may_be(settings, sessions):
    with serving(settings.model_copy(update={"quota_queued_jobs": 9})) as client:
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda _: client.post("/v1/jobs", json=document()), range(50)))
        assert sorted(answer.status_code for answer in answers) == [202] * 9 + [429] * 41
        refused = next(answer for answer in answers if answer.status_code == 429)
        problem = assert_problem(refused, 429, "quota_exceeded")
        assert {name: problem[name] for name in ("quota", "limit", "used")} == {
            "quota": "queued_jobs",
            "limit": 9,
            "used": 9,
        }
        assert int(refused.headers["Retry-After"]) > 0
        assert len(client.get("/v1/jobs?limit=100").json()["data"]) == 9
        first = client.get("/v1/jobs").json()["data"][0]["id"]
        client.post(f"/v1/jobs/{first}/cancel")
        assert client.post("/v1/jobs", json=document()).status_code == 202
        assert_problem(client.post(f"/v1/jobs/{first}/retry"), 429, "quota_exceeded")


def test_uploads_are_refused_beyond_the_stored_bytes(settings):
    file = io.BytesIO()
    np.savez(file, inputs=np.eye(4), labels=np.arange(4) % 2)
    sent = {"data": {"name": "x"}, "files": {"file": file.getvalue()}}
    with serving(settings.model_copy(update={"quota_stored_bytes": 100})) as client:
        problem = assert_problem(client.post("/v1/datasets", **sent), 429, "quota_exceeded")
        assert (problem["quota"], problem["used"]) == ("stored_bytes", 0)
        assert client.get("/v1/datasets").json()["data"] == []
        assert client.get("/v1/project").json()["quotas"]["stored_bytes"]["used"] == 0
        assert [
            path for path in Path(settings.storage_url).rglob("*") if path.is_file()
        ] == []  # nothing was stored


def test_more_requests_than_threads_and_connections_wait_for_each_other_in_no_circle(client):
    def one(number):
        return client.post("/v1/jobs", json=document()) if number % 2 else client.get("/v1/jobs")

    with ThreadPoolExecutor(120) as pool:
        answers = list(pool.map(one, range(120)))
    assert {answer.status_code for answer in answers} == {200, 202}


def test_a_turn_lasts_until_the_transaction_ends_and_not_only_a_savepoint(sessions):
    async def one():
        state = SimpleNamespace(turns=asyncio.Semaphore(1), sessions=sessions)
        async with deps._transaction(SimpleNamespace(app=SimpleNamespace(state=state))) as session:
            session.begin_nested().commit()
            await asyncio.sleep(0)  # what was called from another thread is done now
            assert state.turns.locked()
            session.commit()
            await asyncio.sleep(0)
            assert not state.turns.locked()

    asyncio.run(one())


def test_a_project_may_have_a_limit_of_hyperparameters_of_its_own(client, settings, sessions):

    with sessions.begin() as session:
        project = keys.ensure_project(session, "default")
        own = {"hyperparameters_per_job": 5, "stored_bytes": 0}
        quotas.set_own(session, project, own, settings.quotas)
    problem = assert_problem(client.post("/v1/jobs", json=document()), 422, "invalid_spec")
    assert "more than 5" in problem["detail"]
    small = document({"hyperparameters.step_size.learn": False, "hyperparameters.step_size.per": []})
    answer = client.post("/v1/jobs", json=small)
    assert_problem(answer, 429, "quota_exceeded")
    assert "Retry-After" not in answer.headers  # waiting does not help
