"""dry_run: what a job would take, with nothing created; made by a child that can do no harm."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, text

from api import children, plans
from core.store.models import IdempotencyKey, Job, WakeUp
from tests.api.problems import assert_problem
from tests.builders import document, eventually
from tests.conftest import serving


@pytest.fixture
def settings(settings, tmp_path):
    return settings.model_copy(update={"data": tmp_path / "data", "plan_seconds": 30.0})


@pytest.fixture
def _stub(monkeypatch):
    monkeypatch.setattr(plans, "_PROGRAM", "tests.api.foretold")


pytestmark = pytest.mark.usefixtures("_stub")


@pytest.fixture(autouse=True)
def _nothing_is_created(sessions):
    yield
    with sessions() as session:
        for table in (Job, WakeUp, IdempotencyKey):
            assert session.scalar(select(func.count()).select_from(table)) == 0


def plan(client, name="", **options):
    options = {"json": document({"name": name})} | options
    return client.post("/v1/jobs", params={"dry_run": "true"}, **options)


def test_a_plan_says_what_the_job_would_take(client):
    answer = plan(client, headers={"Idempotency-Key": "not needed"})
    assert answer.status_code == 200
    assert "Location" not in answer.headers
    found = answer.json()
    assert (found["num_hyperparameters"], found["num_iterations"], found["preset"]) == (21, 4, None)
    assert (found["engine"], found["fallback"]) == ("reversible", "unrolled")
    assert (found["hypergradients"], found["trainings"]) == (4, 6)
    assert [one["name"] for one in found["engines"]] == ["reversible", "unrolled"]
    assert (found["engines"][0]["seconds"], found["engines"][0]["device_bytes"]) == (0.5, 7)
    assert found["engines"][1]["remark"].startswith("training diverged")
    assert found["engines"][1]["seconds"] is None
    assert found["machine"] == f"cpu: 30 s, {4 << 30} bytes"
    assert len(found["spec_sha256"]) == 64


def test_presets_are_planned_too(client):
    found = client.post("/v1/jobs", params={"dry_run": "1", "preset": "digits-schedules"}).json()
    assert (found["preset"], found["num_hyperparameters"]) == ("digits-schedules", 1608)


def test_what_is_wrong_is_said_before_anything_is_planned(client):
    assert_problem(plan(client, json=document({"training.num_steps": 0})), 422, "invalid_spec")
    assert_problem(client.post("/v1/jobs?dry_run=maybe", json=document()), 422, "invalid_parameter")
    del client.headers["Authorization"]
    assert_problem(plan(client), 401, "unauthorized")


def test_data_that_only_the_planner_finds_damaged_are_named(client):
    problem = assert_problem(plan(client, "refuse"), 422, "invalid_spec")
    assert problem["errors"] == [{"loc": ["problem", "dataset"], "msg": "is damaged; repair it"}]


@pytest.mark.parametrize(
    ("name", "words"),
    [("alarm", "longer than 30 s"), ("abort", "SIGABRT"), ("memory", "it needs more")],
)
def test_what_a_plan_may_not_take_ends_it(client, name, words):
    assert words in assert_problem(plan(client, name), 422, "plan_failed")["detail"]
    assert plan(client).status_code == 200


def test_a_planner_that_overruns_is_killed(settings, monkeypatch):
    monkeypatch.setattr(children, "GRACE_SECONDS", 0.0)
    with serving(settings.model_copy(update={"plan_seconds": 0.3})) as client:
        began = time.monotonic()
        assert_problem(plan(client, "hang"), 422, "plan_failed")
        assert time.monotonic() - began < 10
        assert_problem(plan(client, "hang"), 422, "plan_failed")  # and not busy: the first is gone


def test_a_fault_of_ours_is_not_told(client):
    problem = assert_problem(plan(client, "bug"), 500, "internal_error")
    assert "secret" not in str(problem)


def test_the_planner_knows_where_data_are_and_no_secret(client, settings, monkeypatch):
    with monkeypatch.context() as patch:
        for name in children._SECRETS:
            patch.setenv(name, "secret")
        with serving(settings) as served:
            found = json.loads(plan(served, "environment").json()["machine"])
    assert found["RETROGRAD_DATA"] == str(settings.data)
    assert "secret" not in found.values()


def test_one_plan_is_made_at_a_time_and_meanwhile_all_else_goes_on(settings, sessions, tmp_path, monkeypatch):
    monkeypatch.setattr("api.deps.TURNS", 1)  # which the plan gives back
    go_on = tmp_path / "go-on"
    with serving(settings) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(plan, client, f"wait {go_on}")
        try:
            eventually(go_on.with_suffix(".begun").exists)
            refused = plan(client)
            assert_problem(refused, 503, "busy")
            assert refused.headers["Retry-After"]
            assert client.get("/v1/jobs").status_code == 200
            with sessions() as session:  # the plan holds no transaction
                query = (
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND application_name = 'retrograd api' AND state <> 'idle'"
                )
                assert session.scalar(text(query)) == 0
        finally:
            go_on.touch()
        assert first.result().status_code == 200
        assert plan(client).status_code == 200


def test_closing_ends_the_plan_that_is_being_made(settings):
    from core.spec import JobSpec

    planner = plans.Planner(settings)
    failed = []

    def make():
        try:
            planner.plan(JobSpec.model_validate(document({"name": "hang"})))
        except plans.PlanFailed as error:
            failed.append(str(error))

    thread = threading.Thread(target=make)
    thread.start()
    eventually(lambda: planner._children._at_it)
    planner.close()
    thread.join(10)
    assert "SIGKILL" in failed[0]
