"""The life of a job over HTTP. What a worker does is done here through the store."""

import io
import math
import threading
from datetime import datetime
from uuid import UUID, uuid4

import numpy as np
import pytest
from sqlalchemy import select, text

from core import presets
from core.records import Evaluation, Losses, Trial
from core.store import jobs, keys, leases
from core.store.models import Job, WakeUp
from tests.api.problems import assert_problem
from tests.builders import claim, document, record, values
from tests.conftest import serving

FOUND = Evaluation(Losses(1.0, 2.0, math.nan, 4.0), {"test_accuracy": 0.5})


@pytest.fixture
def job(client):
    return client.post("/v1/jobs", json=document()).json()


def work(sessions, job, *, iterations=2, finish=True):
    """Do what a worker does."""
    lease = claim(sessions, UUID(job["id"]))
    with sessions.begin() as session:
        leases.save_start(
            session, lease, values(0), {"initial": FOUND}, {"device": "cpu: test", "versions": {"jax": "0"}}
        )
        for number in range(iterations):
            leases.save_iteration(
                session, lease, record(number, outer=math.nan if number else 3.0, best=0, best_loss=3.0)
            )
        if finish:
            leases.succeed(
                session,
                lease,
                best_iteration=1,
                evaluations={"initial": FOUND, "best": FOUND, "last": None},
                arrays={"learning_curve.initial": np.arange(3.0), "learning_curve.best": np.arange(3.0) / 2},
                provenance={"device": "cpu: test"},
            )
    return lease


def test_a_job_is_accepted(client, sessions):
    answer = client.post("/v1/jobs", json=document())
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert answer.headers["Retry-After"] == "2"
    assert (job["state"], job["queue"], job["attempt"], job["preset"]) == ("queued", "cpu", 0, None)
    assert job["progress"] == {"meta_iteration": 0, "of": 4, "eta_seconds": None}
    assert job["spec"]["training"]["num_steps"] == 10
    assert datetime.fromisoformat(job["created_at"]).tzinfo is not None
    assert client.get(answer.headers["Location"]).json() == job
    with sessions() as session:
        assert session.scalars(select(WakeUp.job_id)).one() == UUID(job["id"])


def test_duplicate_fields_and_other_json_types_are_fine(client):
    body = '{"name": "first", ' + str(document()).replace("'", '"').replace("True", "true")[1:]
    answer = client.post(
        "/v1/jobs", content=body, headers={"Content-Type": "application/vnd.retrograd+json; charset=utf-8"}
    )
    assert answer.status_code == 202
    assert answer.json()["name"] == "small"


@pytest.mark.parametrize("name", ["", "späti 🎓", "'; DROP TABLE jobs; --", "<script>"])
def test_a_name_is_text(client, name):
    assert client.post("/v1/jobs", json=document({"name": name})).json()["name"] == name


def test_a_preset_by_name_or_as_a_body_is_the_same_job(client):
    by_name = client.post("/v1/jobs?preset=digits-schedules").json()
    spec = client.get("/v1/presets/digits-schedules").json()
    as_body = client.post("/v1/jobs", json=spec | {"name": "mine"}).json()
    assert by_name["spec"] == spec
    assert by_name["preset"] == as_body["preset"] == "digits-schedules"
    assert by_name["spec_sha256"] == as_body["spec_sha256"]
    listed = client.get("/v1/jobs", params={"preset": "digits-schedules"}).json()["data"]
    assert [one["id"] for one in listed] == [as_body["id"], by_name["id"]]


def test_null_is_no_specification(client):
    headers = {"Content-Type": "application/json"}
    for query in ("", "?preset=digits-schedules"):
        answer = client.post(f"/v1/jobs{query}", content=b" null\n", headers=headers)
        assert "null is no job specification" in assert_problem(answer, 422, "invalid_spec")["detail"]


def test_presets_are_listed(client):
    assert [preset["name"] for preset in client.get("/v1/presets").json()["data"]] == list(presets.names())


def test_pages_follow_each_other(client):
    created = [client.post("/v1/jobs", json=document({"name": str(number)})).json()["id"] for number in range(5)]
    seen, after = [], None
    while True:
        page = client.get("/v1/jobs", params={"limit": 2, **({"after": after} if after else {})}).json()
        seen += [job["id"] for job in page["data"]]
        after = page["next"]
        if after is None:
            break
    assert seen == created[::-1]
    assert client.get("/v1/jobs?state=running").json() == {"data": [], "next": None}


def test_a_queued_job_is_cancelled_retried_and_deleted(client, job):
    url = f"/v1/jobs/{job['id']}"
    assert_problem(client.post(f"{url}/retry"), 409, "state_conflict")
    assert_problem(client.delete(url), 409, "state_conflict")
    cancelled = client.post(f"{url}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    assert "Retry-After" not in cancelled.headers
    problem = assert_problem(client.post(f"{url}/cancel"), 409, "state_conflict")
    assert problem["state"] == "cancelled"
    retried = client.post(f"{url}/retry")
    assert (retried.status_code, retried.json()["state"]) == (202, "queued")
    client.post(f"{url}/cancel")
    deleted = client.delete(url)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert_problem(client.get(url), 404, "unknown_job")


def test_a_running_job_shows_how_far_it_is(client, sessions, job):
    work(sessions, job, finish=False)
    read = client.get(f"/v1/jobs/{job['id']}")
    found = read.json()
    assert read.headers["Retry-After"] == "2"
    assert (found["state"], found["attempt"], found["device"]) == ("running", 1, "cpu: test")
    assert found["progress"] == {"meta_iteration": 2, "of": 4, "eta_seconds": pytest.approx(4.0)}
    assert (found["latest_outer_loss"], found["best_outer_loss"], found["best_iteration"]) == (None, 3.0, 0)
    losses = {"outer": 1.0, "train": 2.0, "valid": None, "test": 4.0, "measures": {"test_accuracy": 0.5}}
    assert found["losses"] == {"initial": losses}
    cancelled = client.post(f"/v1/jobs/{job['id']}/cancel").json()
    assert (cancelled["state"], cancelled["cancel_requested"]) == ("running", True)


def test_a_finished_job_shows_what_it_found(client, sessions, job):
    work(sessions, job)
    found = client.get(f"/v1/jobs/{job['id']}").json()
    assert found["state"] == "succeeded"
    assert found["progress"]["eta_seconds"] is None
    assert found["losses"]["last"] is None
    assert found["certificate"] == {
        "exact": True,
        "iterations": 2,
        "mismatched_bits": 0,
        "stored_bits_per_param_step": 1.5,
        "bound_bits_per_param_step": 1.0,
        "engine": "reversible",
        "mode": "fused",
    }


def test_a_failed_job_says_why(client, sessions, job):
    lease = claim(sessions, UUID(job["id"]))
    with sessions.begin() as session:
        leases.fail(session, lease, "diverged", "it did", {"step": 3, "largest": math.inf})
    found = client.get(f"/v1/jobs/{job['id']}").json()
    assert (found["state"], found["error"]) == (
        "failed",
        {"code": "diverged", "message": "it did", "details": {"step": 3, "largest": None}},
    )
    problem = assert_problem(client.get(f"/v1/jobs/{job['id']}/hyperparameters"), 409, "nothing_learned")
    assert problem["state"] == "failed"


def test_jobs_are_found_by_what_their_names_hold(client):
    for name in ("ten %", "TEN _", "eleven", "back\\slash"):
        client.post("/v1/jobs", json=document({"name": name}))

    def found(search):
        return [one["name"] for one in client.get("/v1/jobs", params={"search": search}).json()["data"]]

    assert found("ten") == ["TEN _", "ten %"]
    assert (found("%"), found("_"), found("\\")) == (["ten %"], ["TEN _"], ["back\\slash"])
    assert found("\0") == found("twelve") == []
    assert_problem(client.get("/v1/jobs?search="), 422, "invalid_parameter")


def test_iterations_come_in_order_and_in_pages(client, sessions, job):
    url = f"/v1/jobs/{job['id']}/iterations"
    assert client.get(url).json() == {"data": [], "next": None}
    work(sessions, job, iterations=4)
    rows = client.get(url).json()["data"]
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3]
    assert (rows[0]["outer_loss"], rows[1]["outer_loss"], rows[0]["attempt"]) == (3.0, None, 1)
    assert rows[0]["certificate"]["exact"] is True
    first = client.get(url, params={"limit": 3}).json()
    assert first["next"] == 2
    assert [row["iteration"] for row in client.get(url, params={"after": 2}).json()["data"]] == [3]
    assert_problem(client.get(url, params={"after": -1}), 422, "invalid_parameter")


def test_the_result_is_a_document_to_keep(client, sessions, job):
    work(sessions, job)
    answer = client.get(f"/v1/jobs/{job['id']}/hyperparameters")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="retrograd-{job["id"]}-best.json"'
    result = answer.json()
    assert (result["schema"], result["job_id"]) == ("retrograd.hyperparameters.v1", job["id"])
    assert (result["state"], result["iteration"]) == ("succeeded", 1)
    step_size = result["hyperparameters"]["step_size"]
    np.testing.assert_array_equal(step_size.pop("values"), np.exp(values(1)["step_size"]))
    assert step_size == {
        "shape": [10, 2],
        "axes": ["step", "group"],
        "groups": ["layer_1.weights", "layer_1.biases"],
        "transform": "log",
        "unit": "weight per velocity",
    }
    momentum = result["hyperparameters"]["momentum"]
    assert momentum["values"] == 1 / (1 + math.exp(-1 / 3))
    assert (momentum["shape"], momentum["axes"], momentum["groups"]) == ([], [], [])
    assert result["groups"] == [
        {"name": "layer_1.weights", "shape": [64, 10]},
        {"name": "layer_1.biases", "shape": [10]},
    ]
    assert result["fixed"] == {"init_scale": 0.1, "l2": 0.001}
    assert result["losses"]["best"]["valid"] is None
    assert result["certificate"]["exact"] is True
    assert result["provenance"] == {"device": "cpu: test"}


def test_the_result_as_numpy_arrays(client, sessions, job):
    work(sessions, job)
    answer = client.get(f"/v1/jobs/{job['id']}/hyperparameters?format=npz&iteration=last")
    assert answer.headers["Content-Disposition"].endswith('-last.npz"')
    with np.load(io.BytesIO(answer.content), allow_pickle=False) as arrays:
        assert {name for name in arrays if "/" not in name} == {"document", "momentum", "step_size"}
        np.testing.assert_array_equal(arrays["step_size"], np.exp(values(2)["step_size"]))
        assert '"iteration": 2' in str(arrays["document"])


def test_values_of_each_iteration(client, sessions, job):
    url = f"/v1/jobs/{job['id']}/hyperparameters"
    assert_problem(client.get(url), 409, "nothing_learned")
    work(sessions, job, finish=False)
    for which, iteration in {"0": 0, "1": 1, "2": 2, "last": 2, "best": 0}.items():
        assert client.get(url, params={"iteration": which}).json()["iteration"] == iteration
    assert_problem(client.get(url, params={"iteration": "3"}), 404, "unknown_iteration")
    for wrong in ("-1", "worst", "1.5", str(2**40), ""):
        problem = assert_problem(client.get(url, params={"iteration": wrong}), 422, "invalid_parameter")
        assert [error["loc"] for error in problem["errors"]] == [["query", "iteration"]]
    assert_problem(client.get(url, params={"format": "pickle"}), 422, "invalid_parameter")


def test_values_that_were_not_kept_are_gone(settings, sessions):
    from tests.conftest import serving

    with serving(settings.model_copy(update={"max_snapshot_bytes": 1})) as client:
        job = client.post("/v1/jobs", json=document()).json()
        work(sessions, job, iterations=3)
        problem = assert_problem(client.get(f"/v1/jobs/{job['id']}/hyperparameters?iteration=2"), 410, "pruned")
    assert problem["kept"] == [0, 3]


def test_values_that_overflow_are_null(client, sessions, job):
    lease = claim(sessions, UUID(job["id"]))
    with sessions.begin() as session:
        start = {"step_size": np.array([[1e6, 0.0]] * 10), "momentum": np.array(math.nan)}
        leases.save_start(session, lease, start, {"initial": FOUND}, {})
    found = client.get(f"/v1/jobs/{job['id']}/hyperparameters?iteration=0").json()["hyperparameters"]
    assert found["step_size"]["values"] == [[None, 1.0]] * 10
    assert found["momentum"]["values"] is None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("POST", "/cancel"),
        ("POST", "/retry"),
        ("DELETE", ""),
        ("GET", "/iterations"),
        ("GET", "/hyperparameters"),
    ],
)
def test_another_projects_job_does_not_exist(client, sessions, job, method, path):
    key = keys.new_key()
    with sessions.begin() as session:
        keys.add(session, keys.ensure_project(session, "other"), key)
    theirs = {"Authorization": f"Bearer {key}"}
    unknown = client.request(method, f"/v1/jobs/{uuid4()}{path}", headers=theirs)
    problem = assert_problem(
        client.request(method, f"/v1/jobs/{job['id']}{path}", headers=theirs), 404, "unknown_job"
    )
    assert unknown.json()["detail"].count("-") == problem["detail"].count("-")  # the same words
    assert client.get("/v1/jobs", headers=theirs).json()["data"] == []
    assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == "queued"


def test_an_answer_never_promises_what_was_not_committed(client, sessions):
    with sessions.begin() as session:  # fails at the commit, after the route is done
        session.execute(
            text("CREATE FUNCTION refuse() RETURNS trigger AS 'BEGIN RAISE ''full''; END' LANGUAGE plpgsql")
        )
        session.execute(
            text(
                "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON jobs DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION refuse()"
            )
        )
    assert_problem(client.post("/v1/jobs", json=document()), 500, "internal_error")
    with sessions() as session:
        assert session.scalars(select(Job)).all() == []


def test_a_job_deleted_meanwhile_is_not_found(client, sessions, project, job):
    with sessions.begin() as session:
        jobs.cancel(session, project, UUID(job["id"]))
        jobs.remove(session, project, UUID(job["id"]))
    assert_problem(client.get(f"/v1/jobs/{job['id']}/hyperparameters"), 404, "unknown_job")


def test_figures_are_listed_and_drawn(client, sessions, job):
    assert client.get(f"/v1/jobs/{job['id']}/figures").json() == {"data": []}
    work(sessions, job)
    listed = client.get(f"/v1/jobs/{job['id']}/figures").json()["data"]
    assert [one["name"] for one in listed] == ["learning_curves", "losses", "schedules"]
    for one in listed:
        png, svg = client.get(one["png"]), client.get(one["svg"])
        assert (png.headers["content-type"], png.content[:4]) == ("image/png", b"\x89PNG")
        assert svg.headers["content-type"].startswith("image/svg+xml")
        assert b"<svg" in svg.content


def test_more_figures_than_there_is_room_for_come_later(client, sessions, job, monkeypatch):
    from api.routes import figures

    work(sessions, job)
    monkeypatch.setattr(figures, "_places", threading.BoundedSemaphore(1))
    path = f"/v1/jobs/{job['id']}/figures/losses.png"
    with figures._places:
        answer = client.get(path)
        assert_problem(answer, 503, "busy")
        assert answer.headers["Retry-After"]
    assert client.get(path).status_code == 200


def test_seeds_whose_hypergradients_do_not_fit_together_are_refused(settings):
    small = settings.model_copy(update={"max_hyperparameters": 21})
    with serving(small) as client:
        assert client.post("/v1/jobs", json=document({"meta.seeds_per_iteration": 8})).status_code == 202
        answer = client.post("/v1/jobs", json=document({"meta.seeds_per_iteration": 9}))
        assert assert_problem(answer, 422, "invalid_spec")["errors"][0]["loc"] == ["meta", "seeds_per_iteration"]


def test_a_figure_that_there_is_not_is_told_the_others(client, sessions, job):
    work(sessions, job)
    problem = assert_problem(client.get(f"/v1/jobs/{job['id']}/figures/inputs.png"), 404, "unknown_figure")
    assert "learning_curves, losses, schedules" in problem["detail"]
    for path in ("losses.gif", "../secret.png", "UPPER.png"):
        assert client.get(f"/v1/jobs/{job['id']}/figures/{path}").status_code == 404


def test_trials_are_listed_with_natural_values(client, sessions, job):
    lease = claim(sessions, UUID(job["id"]))
    with sessions.begin() as session:
        leases.save_trial(session, lease, Trial(0, {"step_size": 0.0, "momentum": 0.0}, 0.7))
        leases.save_trial(session, lease, Trial(1, {"step_size": 1.0, "momentum": 0.0}, None))
    found = client.get(f"/v1/jobs/{job['id']}/trials").json()["data"]
    assert found[0] == {"number": 0, "values": {"step_size": 1.0, "momentum": 0.5}, "outer_loss": 0.7}
    assert found[1]["outer_loss"] is None


def test_what_was_measured_is_downloaded_beside_the_values(client, sessions, job):
    work(sessions, job)
    document = client.get(f"/v1/jobs/{job['id']}/hyperparameters").json()
    assert document["measured"]["learning_curve.best"] == {"shape": [3], "values": [0.0, 0.5, 1.0]}
    arrays = np.load(io.BytesIO(client.get(f"/v1/jobs/{job['id']}/hyperparameters?format=npz").content))
    np.testing.assert_array_equal(arrays["measured/learning_curve.initial"], [0, 1, 2])


def test_a_job_is_paused_and_resumed(client, job):
    path = f"/v1/jobs/{job['id']}"
    answer = client.post(f"{path}/pause")
    assert (answer.status_code, answer.json()["state"]) == (202, "paused")
    assert client.get("/v1/jobs", params={"state": "paused"}).json()["data"][0]["id"] == job["id"]
    assert client.post(f"{path}/resume").json()["state"] == "queued"
    assert_problem(client.post(f"{path}/resume"), 409, "state_conflict")


def test_all_jobs_are_cancelled_together(client):
    ids = {client.post("/v1/jobs", json=document()).json()["id"] for _ in range(3)}
    answer = client.post("/v1/jobs/cancel", params={"state": "queued"})
    assert answer.status_code == 202
    assert set(answer.json()["data"]) == ids
    assert answer.json()["more"] is False
    assert {one["state"] for one in client.get("/v1/jobs").json()["data"]} == {"cancelled"}
    assert_problem(client.post("/v1/jobs/cancel", params={"state": "succeeded"}), 422, "invalid_parameter")
