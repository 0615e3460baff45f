"""Webhooks as clients see them."""

import base64
import json
from uuid import uuid4

import pytest
from sqlalchemy import func, select

from core.receivers import new_secret
from core.spec import JobSpec
from core.store import deliveries
from core.store.models import Job, Webhook
from tests.api.problems import assert_problem
from tests.builders import document
from tests.conftest import serving
from tests.store.test_leases import write

URL = "https://example.com/hook"


def create(client, **webhook):
    return client.post("/v1/jobs", json=document() | {"webhook": {"url": URL} | webhook})


@pytest.fixture
def job(client):
    return create(client).json()


@pytest.fixture
def ended(client, job):
    client.post(f"/v1/jobs/{job['id']}/cancel")
    return job


def test_a_secret_is_made_and_shown_once(client, sessions):
    created = create(client)
    assert created.status_code == 202
    webhook = created.json()["webhook"]
    assert set(webhook) == {"url", "secret", "disabled_at"}
    assert (webhook["url"], webhook["disabled_at"]) == (URL, None)
    assert len(base64.b64decode(webhook["secret"].removeprefix("whsec_"))) == 32
    job_id = created.json()["id"]
    read = client.get(f"/v1/jobs/{job_id}").json()
    assert read["webhook"] == {"url": URL, "disabled_at": None}
    assert {**created.json(), "webhook": read["webhook"]} == read
    others = [
        client.get("/v1/jobs").text,
        client.post(f"/v1/jobs/{job_id}/cancel").text,
        client.get(f"/v1/jobs/{job_id}/deliveries").text,
        client.post(f"/v1/jobs/{job_id}/retry").text,
    ]
    assert all("whsec_" not in text for text in others)
    with sessions() as session:
        assert session.scalar(select(Webhook.secret)) == webhook["secret"]


def test_a_secret_of_ones_own_and_a_url_in_its_normal_form(client, sessions):
    secret = new_secret()
    created = create(client, url="https://EXAMPLE.com", secret=secret).json()
    assert created["webhook"] == {"url": "https://example.com/", "secret": secret, "disabled_at": None}


def test_it_is_no_part_of_the_specification(client, sessions, job):
    without = client.post("/v1/jobs", json=document()).json()
    null = client.post("/v1/jobs", json=document() | {"webhook": None}).json()
    assert without["webhook"] is null["webhook"] is None
    assert job["spec"] == without["spec"] == null["spec"]
    assert "webhook" not in job["spec"]
    assert job["spec_sha256"] == without["spec_sha256"] == JobSpec.model_validate(document()).sha256()
    with sessions() as session:
        stored = [json.dumps(spec, sort_keys=True) for spec in session.scalars(select(Job.spec))]
    assert len(stored) == 3
    assert len(set(stored)) == 1
    assert client.post("/v1/jobs", json=job["spec"]).json()["spec_sha256"] == job["spec_sha256"]


def test_a_preset_with_a_webhook_is_still_that_preset(client):
    spec = client.get("/v1/presets/digits-schedules").json()
    created = client.post("/v1/jobs", json=spec | {"webhook": {"url": URL}}).json()
    assert (created["preset"], created["spec"]) == ("digits-schedules", spec)


def test_fields_that_are_left_out_mean_the_same_as_without_a_webhook(client):
    changes = {"hyperparameters.step_size.initial": ..., "hyperparameters.momentum.initial": ...}
    spec = document(changes)
    with_one = client.post("/v1/jobs", json=spec | {"webhook": {"url": URL}}).json()
    assert with_one["spec_sha256"] == client.post("/v1/jobs", json=spec).json()["spec_sha256"]


BAD = {
    "no url": ({"url": ...}, ["webhook", "url"], "required; add it"),
    "url of another type": ({"url": 3}, ["webhook", "url"], "valid string"),
    "no url at all": ({"url": "hook"}, ["webhook", "url"], "such as https://example.com/hook"),
    "not encrypted": ({"url": "http://example.com/"}, ["webhook", "url"], "use https"),
    "with a password": ({"url": "https://me:hidden@example.com/"}, ["webhook", "url"], "user or password"),
    "private": ({"url": "https://10.0.0.1/"}, ["webhook", "url"], "RETROGRAD_WEBHOOK_ALLOW_PRIVATE"),
    "local": ({"url": "https://localhost/"}, ["webhook", "url"], "no public address"),
    "control character": ({"url": "https://example.com/\0"}, ["webhook", "url"], "control character"),
    "too long": ({"url": "https://example.com/" + "x" * 2048}, ["webhook", "url"], "at most 2048 characters"),
    "short secret": ({"secret": "whsec_hidden"}, ["webhook", "secret"], "24 to 64 random bytes"),
    "secret of another type": ({"secret": ["hidden"]}, ["webhook", "secret"], "24 to 64 random bytes"),
    "unknown field": ({"sercet": "hidden"}, ["webhook", "sercet"], "did you mean 'secret'"),
    "unlike any field": ({"xyz": 1}, ["webhook", "xyz"], "use one of: secret, url"),
}


@pytest.mark.parametrize(("changes", "loc", "says"), BAD.values(), ids=BAD)
def test_a_bad_webhook_is_refused_with_the_remedy_and_leaves_nothing(client, sessions, changes, loc, says):
    webhook = {name: value for name, value in ({"url": URL} | changes).items() if value is not ...}
    problem = assert_problem(client.post("/v1/jobs", json=document() | {"webhook": webhook}), 422, "invalid_spec")
    assert [error["loc"] for error in problem["errors"]] == [loc]
    assert says in problem["errors"][0]["msg"]
    assert "hidden" not in json.dumps(problem)
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0


@pytest.mark.parametrize("webhook", [URL, [], 3])
def test_a_webhook_that_is_no_object(client, webhook):
    problem = assert_problem(client.post("/v1/jobs", json=document() | {"webhook": webhook}), 422, "invalid_spec")
    assert [error["loc"] for error in problem["errors"]] == [["webhook"]]


def test_its_name_is_known_where_it_is_misspelt(client):
    problem = assert_problem(client.post("/v1/jobs", json=document() | {"webhok": {}}), 422, "invalid_spec")
    assert problem["errors"] == [{"loc": ["webhok"], "msg": "unknown field; did you mean 'webhook'?"}]


def test_on_ones_own_network_private_addresses_will_do(settings):
    with serving(settings.model_copy(update={"webhook_allow_private": True})) as client:
        created = create(client, url="http://127.0.0.1:9/hook")
    assert (created.status_code, created.json()["webhook"]["url"]) == (202, "http://127.0.0.1:9/hook")


def test_deliveries_are_listed_newest_first(client, job):
    path = f"/v1/jobs/{job['id']}"
    assert client.get(f"{path}/deliveries").json() == {"data": []}
    for action in ("cancel", "retry", "cancel"):
        client.post(f"{path}/{action}")
    first, second = client.get(f"{path}/deliveries").json()["data"]
    assert first["created_at"] > second["created_at"]
    assert set(first) == {
        "id", "kind", "attempt", "next_attempt_at", "delivered_at", "last_error", "created_at",
    }  # fmt: skip
    assert (first["kind"], first["attempt"], first["delivered_at"]) == ("job.cancelled", 0, None)


def test_a_disabled_webhook_shows_and_is_enabled_by_delivering_again(client, sessions, ended):
    path = f"/v1/jobs/{ended['id']}"
    with sessions.begin() as session:
        due = deliveries.claim(session, 60)
    write(sessions, deliveries.gone, due, "answered 410")
    assert client.get(path).json()["webhook"]["disabled_at"] is not None
    (settled,) = client.get(f"{path}/deliveries").json()["data"]
    assert (settled["next_attempt_at"], settled["last_error"]) == (None, "answered 410")
    answer = client.post(f"{path}/deliveries/{due.id}/redeliver")
    assert answer.status_code == 202
    assert (answer.json()["id"], answer.json()["attempt"]) == (str(due.id), 0)
    assert answer.json()["next_attempt_at"] is not None
    assert client.get(path).json()["webhook"]["disabled_at"] is None


def test_deliveries_of_others_are_not_there(client, stranger, ended):
    path = f"/v1/jobs/{ended['id']}/deliveries"
    (delivery,) = client.get(path).json()["data"]
    assert_problem(client.post(f"{path}/{uuid4()}/redeliver"), 404, "unknown_delivery")
    mine = create(client).json()
    assert_problem(
        client.post(f"/v1/jobs/{mine['id']}/deliveries/{delivery['id']}/redeliver"), 404, "unknown_delivery"
    )
    assert_problem(stranger.get(path), 404, "unknown_job")
    assert_problem(stranger.post(f"{path}/{delivery['id']}/redeliver"), 404, "unknown_job")
