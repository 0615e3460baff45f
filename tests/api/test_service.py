"""What the API is as a process: its imports, its health, its description of itself."""

import signal
import subprocess
import sys

import httpx
import pytest
from alembic import command

from core.config import Settings
from core.store import keys, migrate
from retrograd.local.servers import free_port
from tests.api.problems import assert_problem
from tests.builders import document
from tests.conftest import database, running, serving


def test_importing_the_api_loads_no_jax():
    program = "import sys, api.app; sys.exit(any(name in sys.modules for name in ('jax', 'celery', 'sklearn')))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_it_is_alive_and_ready(client):
    del client.headers["Authorization"]
    assert client.get("/healthz").json() == {"status": "ok"}
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "checks": {"database": "ok", "migrations": "ok", "broker": "ok"}}


@pytest.mark.parametrize("url", ["", "redis://127.0.0.1:{port}/0", "nonsense"])
def test_without_a_broker_jobs_are_still_accepted(settings, url):
    without = settings.model_copy(
        update={"broker_url": Settings(broker_url=url.format(port=free_port())).broker_url}
    )
    with serving(without) as client:
        answer = client.get("/readyz")
        assert answer.status_code == 200
        assert answer.json()["status"] == "degraded"
        assert answer.json()["checks"]["broker"] != "ok"
        assert client.post("/v1/jobs", json=document()).status_code == 202


def test_without_a_database_it_says_so_and_is_not_ready(settings):
    away = f"postgresql+psycopg://u:secret@127.0.0.1:{free_port()}/x"
    without = settings.model_copy(update={"database_url": away, "bootstrap_api_key": None})
    with serving(without, key=keys.new_key()) as client:
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
        assert "secret" not in answer.text
        answer = client.get("/v1/jobs")
        problem = assert_problem(answer, 503, "database_unavailable")
        assert answer.headers["Retry-After"]
        assert "secret" not in str(problem)


def test_before_its_migrations_it_is_not_ready(settings, postgres, migrated):
    with database(postgres, migrated) as url, serving(settings.model_copy(update={"database_url": url})) as client:
        command.downgrade(migrate.configuration(url), "base")
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert "core.store.migrate" in answer.json()["checks"]["migrations"]


def test_it_describes_itself(client):
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {
        "/v1/jobs",
        "/v1/jobs/cancel",
        "/v1/jobs/{job_id}",
        "/v1/jobs/{job_id}/pause",
        "/v1/jobs/{job_id}/resume",
        "/v1/jobs/{job_id}/cancel",
        "/v1/jobs/{job_id}/retry",
        "/v1/jobs/{job_id}/events",
        "/v1/jobs/{job_id}/iterations",
        "/v1/jobs/{job_id}/hyperparameters",
        "/v1/jobs/{job_id}/curves",
        "/v1/jobs/{job_id}/figures",
        "/v1/jobs/{job_id}/figures/{name}.{form}",
        "/v1/jobs/{job_id}/trials",
        "/v1/datasets",
        "/v1/datasets/{dataset_id}",
        "/v1/programs",
        "/v1/programs/{program_id}",
        "/v1/jobs/{job_id}/deliveries",
        "/v1/jobs/{job_id}/deliveries/{delivery_id}/redeliver",
        "/v1/presets",
        "/v1/presets/{name}",
        "/v1/problem-kinds",
        "/v1/project",
        "/v1/keys",
        "/v1/keys/{key_id}",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    create = described["paths"]["/v1/jobs"]["post"]
    assert "application/problem+json" in create["responses"]["4XX"]["content"]
    assert {"digits-schedules", "own-program"} <= set(
        create["requestBody"]["content"]["application/json"]["examples"]
    )
    assert create["security"] == [{"HTTPBearer": []}]
    assert client.get("/docs").status_code == 200


def test_it_runs_as_a_module_and_stops_at_once(settings, tmp_path, eventually_up):
    port = free_port()
    environ = {"RETROGRAD_BOOTSTRAP_API_KEY": settings.bootstrap_api_key.get_secret_value()}
    arguments = ["--host", "127.0.0.1", "--port", str(port)]
    with running("api", settings, tmp_path / "api.log", *arguments, **environ) as process:
        eventually_up(port)
        headers = {"Authorization": f"Bearer {environ['RETROGRAD_BOOTSTRAP_API_KEY']}"}
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/jobs", json=document(), headers=headers)
        assert answer.status_code == 202
        assert "server" not in answer.headers
        process.terminate()
        assert process.wait(10) == -signal.SIGTERM  # raised again once all is closed, as uvicorn does


def test_the_bootstrap_key_can_be_stored_by_itself(settings, sessions, tmp_path):
    key = keys.new_key()
    with running("api.bootstrap", settings, tmp_path / "log", RETROGRAD_BOOTSTRAP_API_KEY=key) as process:
        assert process.wait(30) == 0
    with sessions() as session:
        assert keys.caller(session, key).project_id == keys.ensure_project(session, "default")


@pytest.fixture
def eventually_up():
    from tests.builders import eventually

    def up(port):
        def answers():
            try:
                return httpx.get(f"http://127.0.0.1:{port}/healthz").is_success
            except httpx.TransportError:
                return False

        eventually(answers)

    return up
