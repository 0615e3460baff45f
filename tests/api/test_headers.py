"""What every answer says of itself."""

import pytest

from tests.builders import document


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/presets", "/v1/nothing"])
def test_answers_are_kept_private_and_of_their_kind(client, path):
    answer = client.get(path)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "private, no-cache"


def test_what_a_route_says_stays(client):
    made = client.post("/v1/keys", json={"name": "one", "scopes": ["read"]})
    assert made.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "name", ["two\nlines", "\x1b[31mred", "c1 \x9b31m", "turned \u202e around", "zero\u200bwidth"]
)
def test_names_are_printable(client, name):
    answer = client.post("/v1/jobs", json=document({"name": name}))
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["loc"] == ["name"]
    assert "cannot be seen" in error["msg"]
    refused = client.post("/v1/keys", json={"name": name, "scopes": ["read"]})
    assert refused.status_code == 422
    assert client.post("/v1/jobs", json=document({"name": "größer als 0.1 × π"})).status_code == 202


def test_where_nothing_is_a_browser_is_told_on_a_page_and_a_program_by_a_problem(client):
    shown = client.get("/nothing", headers={"Accept": "text/html"})
    assert (shown.status_code, shown.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    for path, accept in (("/nothing", "application/json"), ("/v1/nothing", "text/html")):
        answer = client.get(path, headers={"Accept": accept})
        assert (answer.status_code, answer.headers["Content-Type"]) == (404, "application/problem+json")
