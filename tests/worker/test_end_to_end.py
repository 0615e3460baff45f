"""Jobs from POST to download, through real processes: API, janitor, Celery worker, and the numerics."""

import io
import signal
from contextlib import contextmanager

import numpy as np
import psutil
import pytest
import redis

from tests.builders import document, eventually
from tests.conftest import HASTY, fresh_settings, running, serving
from worker.publisher import publishing

LONG = {"training.num_steps": 400, "meta.num_iterations": 1000, "meta.evaluation_seeds": 1}


@pytest.fixture(scope="module")
def settings(postgres, migrated, valkey):
    with fresh_settings(postgres, migrated, valkey) as settings:
        yield settings.model_copy(update=HASTY)


@pytest.fixture(scope="module")
def client(settings):
    with serving(settings) as client:
        yield client


@pytest.fixture(scope="module")
def start(settings, tmp_path_factory):
    """Start a worker; a context manager that yields its process."""
    folder = tmp_path_factory.mktemp("workers")

    @contextmanager
    def start(**environ):
        with running("worker", settings, folder / "worker.log", **environ) as process:
            yield process

    start.log = folder / "worker.log"
    return start


@pytest.fixture(scope="module", autouse=True)
def janitor(settings, tmp_path_factory):
    with running("worker.janitor", settings, tmp_path_factory.mktemp("janitor") / "log"):
        yield


@pytest.fixture(scope="module")
def worker(start):
    with start() as process:
        yield process


@pytest.fixture
def submit(client):
    """Create jobs; those that still run at the end are cancelled, as the worker is shared."""
    created = []

    def submit(changes=None):
        answer = client.post("/v1/jobs", json=document(changes))
        assert answer.status_code == 202, answer.text
        created.append(answer.json()["id"])
        return created[-1]

    yield submit
    for job_id in created:
        client.post(f"/v1/jobs/{job_id}/cancel")
    for job_id in created:
        ended(client, job_id)


def look(client, job_id):
    return client.get(f"/v1/jobs/{job_id}").json()


def ended(client, job_id):
    def done():
        job = look(client, job_id)
        return job if job["state"] in ("succeeded", "failed", "cancelled") else None

    return eventually(done, 240)  # the first job compiles, on a machine that tests share


def past(client, job_id, iterations):
    eventually(lambda: look(client, job_id)["progress"]["meta_iteration"] >= iterations, 240)


def download(client, job_id, **query):
    answer = client.get(f"/v1/jobs/{job_id}/hyperparameters", params=query)
    assert answer.status_code == 200, answer.text
    return answer


def test_a_job_is_learned_and_downloaded(client, worker, submit):
    job_id = submit()
    job = ended(client, job_id)
    assert job["state"] == "succeeded", job["error"]
    assert job["progress"]["meta_iteration"] == 4
    assert job["certificate"]["exact"] is True
    assert (job["certificate"]["iterations"], job["certificate"]["mismatched_bits"]) == (4, 0)
    assert job["losses"]["best"]["outer"] < job["losses"]["initial"]["outer"]
    assert job["provenance"]["spec_sha256"] == job["spec_sha256"]
    assert job["device"] == job["provenance"]["device"]
    rows = client.get(f"/v1/jobs/{job_id}/iterations").json()["data"]
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3]
    result = download(client, job_id).json()
    assert result["iteration"] == job["best_iteration"]
    step_sizes = np.array(result["hyperparameters"]["step_size"]["values"])
    assert step_sizes.shape == (10, 2)
    assert not np.allclose(step_sizes, 0.3)
    np.testing.assert_allclose(
        download(client, job_id, iteration=0).json()["hyperparameters"]["step_size"]["values"], 0.3
    )
    with np.load(io.BytesIO(download(client, job_id, format="npz").content)) as arrays:
        np.testing.assert_array_equal(arrays["step_size"], step_sizes)


def test_a_job_that_diverges_at_once_fails_with_the_step(client, worker, submit):
    diverging = {
        "hyperparameters.step_size": {"learn": True, "per": ["step"], "initial": 1e6, "transform": "identity"},
        "hyperparameters.momentum": {"initial": 0.9},
        "training.num_steps": 50,
    }
    job = ended(client, submit(diverging))
    assert job["state"] == "failed"
    assert job["error"]["code"] == "diverged"
    assert job["error"]["details"]["group"].startswith("layer_1")
    assert 0 <= job["error"]["details"]["step"] < 50
    assert "lower the step size" in job["error"]["message"]
    assert client.get(f"/v1/jobs/{job['id']}/hyperparameters").status_code == 409


def test_a_job_that_diverges_later_keeps_the_best_so_far(client, worker, submit):
    leaping = {
        "hyperparameters.step_size": {"learn": True, "initial": 0.1, "transform": "identity"},
        "hyperparameters.momentum": {"initial": 0.9},
        "meta": {"optimizer": "sgd", "step_size": 1e9, "num_iterations": 5, "evaluation_seeds": 1},
        "training.num_steps": 50,
    }
    job = ended(client, submit(leaping))
    assert (job["state"], job["error"]["code"]) == ("failed", "diverged")
    assert job["progress"]["meta_iteration"] >= 1
    assert job["certificate"]["exact"] is True
    assert download(client, job["id"]).json()["iteration"] == job["best_iteration"] == 0
    assert client.post(f"/v1/jobs/{job['id']}/retry").status_code == 202
    again = ended(client, job["id"])
    assert (again["state"], again["attempt"], again["error"]) == ("failed", 2, job["error"])


def test_the_same_message_many_times_is_one_run(client, settings, worker, submit):
    job_id = submit()
    with publishing(settings.broker_url.get_secret_value()) as publisher:
        for _ in range(20):
            publisher.send(job_id, "cpu")
    job = ended(client, job_id)
    with redis.Redis.from_url(settings.broker_url.get_secret_value()) as broker:
        eventually(lambda: broker.llen("cpu") == 0)
    assert look(client, job_id) == job
    assert (job["state"], job["attempt"], job["certificate"]["iterations"]) == ("succeeded", 1, 4)


def test_a_message_about_nothing_harms_nobody(client, settings, worker, submit):
    with publishing(settings.broker_url.get_secret_value()) as publisher:
        for nothing in ("00000000-0000-0000-0000-000000000000", "not an id"):
            publisher.send(nothing, "cpu")
    assert ended(client, submit())["state"] == "succeeded"


def test_a_running_job_is_cancelled_within_seconds(client, worker, submit):
    job_id = submit(LONG)
    past(client, job_id, 1)
    assert client.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "running"
    eventually(lambda: look(client, job_id)["state"] == "cancelled", 5)
    assert download(client, job_id, iteration="last").json()["iteration"] >= 1


@pytest.mark.slow
def test_a_killed_child_costs_time_but_not_the_job(client, worker, submit):
    job_id = submit(LONG | {"meta.num_iterations": 60})
    past(client, job_id, 2)
    child = max(psutil.Process(worker.pid).children(), key=lambda process: process.memory_info().rss)
    child.send_signal(signal.SIGKILL)
    job = ended(client, job_id)
    assert (job["state"], job["attempt"]) == ("succeeded", 2)


@pytest.mark.slow
def test_a_worker_told_to_stop_gives_its_job_back_and_another_ends_with_the_same_bits(
    client, start, worker, submit
):
    job = {"training.num_steps": 200, "meta.num_iterations": 150, "meta.evaluation_seeds": 1}
    interrupted = submit(job)
    past(client, interrupted, 3)
    worker.terminate()
    assert worker.wait(10) == 0
    given_back = look(client, interrupted)
    assert (given_back["state"], given_back["attempt"]) == ("queued", 1)
    assert 3 <= given_back["progress"]["meta_iteration"] < 150
    with start():
        whole = submit(job)
        first, second = ended(client, interrupted), ended(client, whole)
        assert (first["state"], second["state"]) == ("succeeded", "succeeded")
        assert (first["attempt"], second["attempt"]) == (2, 1)
        assert first["losses"] == second["losses"]
        resumed, uninterrupted = (
            download(client, job_id, iteration="last").json() for job_id in (interrupted, whole)
        )
        assert resumed["hyperparameters"] == uninterrupted["hyperparameters"]
