"""What Prometheus reads, as its own parser reads it."""

from uuid import UUID

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr, ValidationError

from api.metrics import Metrics
from core.config import Settings
from core.store.session import close_store, open_store
from tests.api.problems import assert_problem
from tests.builders import claim, document
from tests.conftest import serving

TOKEN = "a token of the scraper"


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"metrics_token": SecretStr(TOKEN)})


def scraped(client, token=TOKEN):
    answer = client.get("/metrics", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("text/plain")
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_jobs_and_what_waits_are_counted(client, sessions):
    before = scraped(client)
    assert before[("retrograd_database_up",)] == 1
    assert before[("retrograd_queued_jobs",)] == before[("retrograd_oldest_queued_seconds",)] == 0
    made = [client.post("/v1/jobs", json=document()).json()["id"] for _ in range(3)]
    claim(sessions, UUID(made[0]), seconds=-1.0)
    after = scraped(client)
    assert (after[("retrograd_queued_jobs",)], after[("retrograd_running_jobs",)]) == (2, 1)
    assert (after[("retrograd_wake_ups",)], after[("retrograd_silent_jobs",)]) == (3, 1)
    assert after[("retrograd_oldest_queued_seconds",)] > 0
    assert after[("retrograd_stored_bytes",)] > 0


def test_requests_are_timed_by_route_and_not_by_id(client):
    job = client.post("/v1/jobs", json=document()).json()["id"]
    for _ in range(2):
        client.get(f"/v1/jobs/{job}")
    client.get("/v1/nothing/of/the/kind")
    found = scraped(client)
    name = "retrograd_http_request_seconds_count"
    assert found[(name, ("method", "GET"), ("route", "/v1/jobs/{job_id:uuid}"), ("status", "200"))] == 2
    assert found[(name, ("method", "any"), ("route", "none"), ("status", "404"))] == 1
    assert not any(job in str(key) for key in found)


def test_it_is_not_for_keys_of_projects(client):
    assert_problem(client.get("/metrics"), 401, "unauthorized")
    assert_problem(client.get("/metrics", headers={"Authorization": "Bearer wrong"}), 401, "unauthorized")


def test_without_a_token_there_is_none(settings):
    with serving(settings.model_copy(update={"metrics_token": SecretStr("")})) as client:
        assert_problem(client.get("/metrics"), 404, "not_found")


def test_a_token_that_anyone_guesses_is_refused():
    with pytest.raises(ValidationError, match="metrics_token"):
        Settings(metrics_token="short")


def test_a_database_that_is_away_is_told():
    sessions = open_store("postgresql+psycopg://nobody@127.0.0.1:9/none")
    text = generate_latest(Metrics(sessions).registry).decode()
    close_store(sessions)
    assert "retrograd_database_up 0.0" in text
    assert "retrograd_queued_jobs" not in text
