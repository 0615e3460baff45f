"""Programs over HTTP: what is answered, what a check may not do, and jobs about them."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from sqlalchemy import func, select, text

from api import checks, children
from core.store import keys
from core.store.models import Program
from tests.api.problems import assert_problem
from tests.builders import eventually
from tests.conftest import serving
from tests.programs import making
from tests.uploads import making as uploads


@pytest.fixture(autouse=True)
def _stub(monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "_CHECK", "tests.programs.checked")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # which a child of the API has, too


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"check_seconds": 20.0})


@pytest.fixture
def post(client):
    return lambda content=None, name="mine", client=client: send(client, content, name)


def send(client, content=None, name="mine"):
    files = {"file": ("net.zip", making.program() if content is None else content)}
    return client.post("/v1/programs", data={"name": name}, files=files)


def upload(client, shape=(4, 4), name="mine"):
    file = uploads.npz(True, **uploads.arrays(np.random.default_rng(0), shape=shape))
    return client.post("/v1/datasets", data={"name": name}, files={"file": file}).json()


def stored_bytes(client):
    return client.get("/v1/project").json()["quotas"]["stored_bytes"]["used"]


def test_programs_are_sent_looked_at_listed_and_deleted(client, post):
    answer = post()
    assert answer.status_code == 201, answer.text
    found = answer.json()
    assert re.fullmatch(r"pr_[0-9a-f]{24}", found["id"])
    assert answer.headers["Location"] == f"/v1/programs/{found['id']}"
    assert (found["num_steps"], found["deterministic"], found["platforms"]) == (5, True, ["cpu", "cuda"])
    assert found["hyper"] == making.MANIFEST["hyper"]
    assert found["data"] == making.MANIFEST["data"]
    assert found["probe"] == {"inner_loss": 1.5, "outer_loss": 2.5}
    assert found["bytes"] == len(making.program())
    assert client.get(answer.headers["Location"]).json() == found
    [listed] = client.get("/v1/programs").json()["data"]
    assert listed == {name: found[name] for name in ("id", "name", "created_at", "sha256", "bytes")}
    assert client.delete(f"/v1/programs/{found['id']}").status_code == 204
    assert_problem(client.get(f"/v1/programs/{found['id']}"), 404, "unknown_program")
    assert_problem(client.delete(f"/v1/programs/{found['id']}"), 404, "unknown_program")


def test_sent_twice_it_is_the_same(post):
    first, again, renamed = post(), post(), post(name="another")
    assert (first.status_code, again.status_code, renamed.status_code) == (201, 200, 201)
    assert first.json() == again.json()
    assert renamed.json()["sha256"] == first.json()["sha256"]
    assert renamed.json()["id"] != first.json()["id"]


def test_pages_and_bad_cursors(client, post):
    names = [post(name=f"n{number}").json()["name"] for number in range(3)]
    first = client.get("/v1/programs?limit=2").json()
    second = client.get("/v1/programs", params={"limit": 2, "after": first["next"]}).json()
    assert [one["name"] for one in first["data"] + second["data"]] == names[::-1]
    assert second["next"] is None
    assert_problem(client.get("/v1/programs", params={"after": "x"}), 422, "invalid_cursor")


def test_another_project_sees_nothing_of_it(stranger, client, post):
    program_id, unknown = post().json()["id"], "pr_" + "0" * 24
    assert stranger.get("/v1/programs").json()["data"] == []
    answers = [
        (
            stranger.get(f"/v1/programs/{one}"),
            stranger.delete(f"/v1/programs/{one}"),
            stranger.post("/v1/jobs", json=making.job(one)),
        )
        for one in (program_id, unknown)
    ]
    for theirs, nobodys in zip(*answers, strict=True):
        assert theirs.status_code == nobodys.status_code >= 400
        assert theirs.text.replace(program_id, "") == nobodys.text.replace(unknown, "")
    problem = assert_problem(answers[0][2], 422, "invalid_spec")
    assert problem["errors"][0]["loc"] == ["problem", "id"]
    assert client.get(f"/v1/programs/{program_id}").status_code == 200


def test_a_job_about_a_program(client, post):
    program, data = post().json(), upload(client)
    created = client.post("/v1/jobs", json=making.job(program["id"], data["id"]))
    assert created.status_code == 202, created.text
    job = created.json()
    assert job["spec"]["problem"]["sha256"] == program["sha256"]
    assert job["spec"]["problem"]["data_sha256"] == {"train": data["sha256"]}
    assert job["num_hyperparameters"] == 22
    for path, code in (("programs", "program_in_use"), ("datasets", "dataset_in_use")):
        uploaded = program["id"] if path == "programs" else data["id"]
        assert assert_problem(client.delete(f"/v1/{path}/{uploaded}"), 409, code)["jobs"] == 1
    again = client.post("/v1/jobs", json=job["spec"])  # what is answered can be sent
    assert again.json()["spec_sha256"] == job["spec_sha256"]
    for one in (created, again):
        client.post(f"/v1/jobs/{one.json()['id']}/cancel")
    assert client.delete(f"/v1/programs/{program['id']}").status_code == 204
    assert client.delete(f"/v1/datasets/{data['id']}").status_code == 204
    assert client.get(f"/v1/jobs/{job['id']}").json()["spec"] == job["spec"]


@pytest.mark.parametrize(
    ("changes", "loc", "says"),
    [
        ({"id": "pr_x"}, ["id"], "pattern"),
        ({"id": "ds_" + "0" * 24}, ["id"], "pattern"),
        ({"id": "pr_" + "0" * 24}, ["id"], "GET /v1/programs"),
        ({"id": 7}, ["id"], "string"),
        ({"sha256": "0" * 64}, ["sha256"], "give that, or leave it out"),
        ({"data": {}}, ["data"], "takes data named train"),
        ({"data": {"train": "ds_" + "0" * 24}}, ["data", "train"], "GET /v1/datasets"),
        ({"data": {"train": 7}}, ["data", "train"], "string"),
        ({"learn": ["colour"]}, ["learn"], "no hyperparameter 'colour'"),
        ({"learn": []}, ["learn"], "at least 1"),
        ({"initial": {"penalties": [[1.0], [1.0, 2.0]]}}, ["initial", "penalties"], "another shape"),
        ({"colour": 1}, ["colour"], "unknown field"),
    ],
)
def test_a_wrong_field_of_a_job_is_named(client, post, changes, loc, says):
    wanted = making.job(post().json()["id"], upload(client)["id"], **changes)
    problem = assert_problem(client.post("/v1/jobs", json=wanted), 422, "invalid_spec")
    assert [error["loc"] for error in problem["errors"]] == [["problem", *loc]]
    assert says in problem["detail"]


def test_data_that_the_program_does_not_take_are_refused(client, post):
    wanted = making.job(post().json()["id"], upload(client, shape=(3, 3))["id"])
    problem = assert_problem(client.post("/v1/jobs", json=wanted), 422, "invalid_spec")
    assert problem["errors"][0]["loc"] == ["problem", "data", "train"]


def test_programs_too_large_for_the_settings_are_refused_before_anything_is_made(settings, sessions):
    most = settings.model_copy(update={"max_parameters": 47})
    few = settings.model_copy(update={"max_hyperparameters": 15})
    for changed, loc in ((most, ["problem", "id"]), (few, ["problem", "id"])):
        with serving(changed) as client:
            wanted = making.job(send(client).json()["id"], upload(client)["id"])
            problem = assert_problem(client.post("/v1/jobs", json=wanted), 422, "invalid_spec")
            assert problem["errors"][0]["loc"] == loc


def test_a_huge_hyperparameter_is_never_made(client, post):
    """One number stands for all of 2³² of them; they are counted, and not written out."""
    huge = [*making.MANIFEST["hyper"][:2], {"name": "penalties", "shape": [1 << 16, 1 << 16], "dtype": "float32"}]
    wanted = making.job(
        post(making.declaring(hyper=huge)).json()["id"], upload(client)["id"], initial={"penalties": 0.5}
    )
    began = time.monotonic()
    problem = assert_problem(client.post("/v1/jobs", json=wanted), 422, "invalid_spec")
    assert "4294967296 values of penalties" in problem["detail"]
    assert time.monotonic() - began < 5


NOT_PROGRAMS = {
    "empty": (b"", "is empty"),
    "text": (b"not a zip", "is no zip archive"),
    "npz of data": (uploads.npz(**uploads.arrays(np.random.default_rng(0))), "is no entry of a program"),
    "cut short": (making.program()[:-30], "no zip directory"),
    "other bytes inside": (
        making.program().replace(b"manifest.json", b"manifest.jsom"),
        "is no entry of a program",
    ),
}


@pytest.mark.parametrize("name", NOT_PROGRAMS)
def test_what_is_no_program_is_said(post, sessions, name):
    content, says = NOT_PROGRAMS[name]
    assert says in assert_problem(post(content), 422, "invalid_program")["detail"]
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Program)) == 0


def test_what_the_check_refuses_is_told(post):
    detail = assert_problem(post(making.program("refuse")), 422, "invalid_program")["detail"]
    assert detail == "inner_loss: calls the host (custom call xla_python_cpu_callback); remove it"


@pytest.mark.parametrize(("said", "words"), [("abort", "SIGABRT"), ("cpu", "longer than 20 s")])
def test_a_check_that_dies_is_the_programs_fault(post, said, words):
    assert words in assert_problem(post(making.program(said)), 422, "invalid_program")["detail"]
    assert post().status_code == 201


def test_a_check_that_overruns_is_killed(settings, monkeypatch):
    monkeypatch.setattr(children, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(checks, "_LATER_SECONDS", 0.0)
    with serving(settings.model_copy(update={"check_seconds": 5.0})) as client:
        began = time.monotonic()
        assert_problem(send(client, making.program("hang")), 422, "invalid_program")
        assert time.monotonic() - began < 20
        assert send(client).status_code == 201  # and not busy: the first is gone


def test_a_fault_of_ours_is_not_told(post):
    assert "secret" not in str(assert_problem(post(making.program("bug")), 500, "internal_error"))


def test_a_check_knows_no_secret_and_its_limits(post, monkeypatch):
    monkeypatch.setenv("RETROGRAD_DATABASE_URL", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    found = post(making.program("environment")).json()
    assert set(found["stablehlo_ops"]) <= {*children._OF_THE_SYSTEM, "JAX_PLATFORMS", "LC_CTYPE"}
    assert found["custom_calls"] == ["20 s", f"{4 << 30} bytes"]


def test_two_are_checked_at_a_time_and_meanwhile_all_else_goes_on(settings, sessions, tmp_path, monkeypatch):
    monkeypatch.setattr("api.deps.TURNS", 1)  # which nobody holds who waits for a check
    with serving(settings) as client, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(send, client, making.program("wait"), f"n{number}") for number in range(2)]
        try:
            eventually(lambda: len(list(tmp_path.glob("*.begun"))) == 2)
            refused = send(client)
            assert_problem(refused, 503, "busy")
            assert refused.headers["Retry-After"]
            assert client.get("/v1/programs").json()["data"] == []
            with sessions() as session:  # a check holds no transaction
                query = (
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND application_name = 'retrograd api' AND state <> 'idle'"
                )
                assert session.scalar(text(query)) == 0
        finally:
            (tmp_path / "go-on").touch()
        assert [one.result().status_code for one in waiting] == [201, 201]
        assert send(client).status_code == 201
    assert not list(tmp_path.glob("*.zip"))


def test_closing_ends_the_checks_that_are_being_made(settings, tmp_path):
    checker = checks.Checker(settings)
    path = tmp_path / "x.zip"
    path.write_bytes(making.program("hang"))
    with ThreadPoolExecutor(1) as pool:
        checking = pool.submit(checker.check, path)
        eventually(lambda: checker._children._at_it)
        checker.close()
        with pytest.raises(Exception, match="SIGKILL"):
            checking.result(10)


def test_its_own_limit_is_kept_to(settings):
    with serving(settings.model_copy(update={"max_program_bytes": 10_000})) as client:
        fits = send(client)
        assert len(making.program()) < 10_000
        assert fits.status_code == 201
        problem = assert_problem(send(client, b"PK\x03\x04" + bytes(100_000)), 413, "body_too_large")
        assert "75536 bytes" in problem["detail"]


def test_quotas_count_its_bytes(settings, sessions):
    size = len(making.program())
    with serving(settings.model_copy(update={"quota_stored_bytes": 2 * size - 1})) as client:
        assert send(client).status_code == 201
        assert stored_bytes(client) == size
        problem = assert_problem(send(client, name="another"), 429, "quota_exceeded")
        assert (problem["quota"], problem["used"]) == ("stored_bytes", size)
        [kept] = client.get("/v1/programs").json()["data"]
        client.delete(f"/v1/programs/{kept['id']}")
        assert stored_bytes(client) == 0
        assert send(client, name="another").status_code == 201


@pytest.mark.parametrize("name", ["", "x" * 201, "a\0b", "line\nline", "\x1b[31m", "\u202e"])
def test_a_name_that_cannot_be_shown(post, name):
    assert "name: is needed" in assert_problem(post(name=name), 422, "invalid_program")["detail"]


def test_parts_that_nobody_asked_for(client):
    content = making.program()
    for data, files, says in (
        ({"name": "x", "kind": "npz"}, {"file": content}, "a text named 'kind'"),
        ({"name": "x", "file": "text"}, {}, "a text named 'file'"),
        ({"name": ["x", "y"]}, {"file": content}, "name: is there twice"),
        ({"name": "x"}, [("file", content), ("file", content)], "file: is there twice"),
        (
            {"name": "x"},
            {"program": content},
            "a file named 'program'; send name as text, and the program as file",
        ),
        ({"name": "x"}, {"name": content}, "a file named 'name'"),
        ({"name": "x"}, {}, "file: is needed"),
        ({}, {"file": content}, "name: is needed"),
    ):
        as_form = {name: (None, value) for name, value in data.items()}  # else it would be no multipart form
        given = {"data": data, "files": files} if files else {"files": as_form}
        answer = client.post("/v1/programs", **given)
        assert answer.status_code in (400, 422), (data, answer.text)
        assert says is None or says in answer.json()["detail"]


@pytest.mark.parametrize("kind", ["application/json", "application/zip", "application/x-www-form-urlencoded", ""])
def test_what_is_not_a_form(client, kind):
    answer = client.post("/v1/programs", content=making.program(), headers={"Content-Type": kind})
    assert_problem(answer, 415, "unsupported_media_type")


def test_keys_need_the_scopes_that_data_sets_need(settings, sessions, client, post):
    program_id = post().json()["id"]
    with sessions.begin() as session:
        key, project = keys.new_key(), keys.ensure_project(session, keys.DEFAULT_PROJECT)
        keys.add(session, project, key, scopes=[keys.Scope.READ])
    with httpx.Client(base_url=client.base_url, headers={"Authorization": f"Bearer {key}"}) as reader:
        assert reader.get("/v1/programs").status_code == 200
        assert reader.get(f"/v1/programs/{program_id}").status_code == 200
        assert_problem(reader.delete(f"/v1/programs/{program_id}"), 403, "forbidden")
        assert_problem(send(reader), 403, "forbidden")
    del client.headers["Authorization"]
    assert_problem(send(client), 401, "unauthorized")


def test_without_a_storage_none_is_taken(settings):
    with serving(settings.model_copy(update={"storage_url": ""})) as client:
        assert_problem(send(client), 503, "storage_unavailable")


def test_bytes_are_kept_as_they_were_sent(settings, post):
    sent = post().json()
    (kept,) = Path(settings.storage_url).rglob(sent["sha256"])
    assert kept.read_bytes() == making.program()
