"""The client's own promises, against real sockets; the API's are tested with the whole stack."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from retrograd.client import ApiError, Client, ServerUnreachable
from retrograd.home import Home


class Seen(list):
    """Requests as (method, path, authorization); and all headers of each."""

    def __init__(self):
        self.headers = []


@contextmanager
def serving(*answers):
    """A server that gives one answer to each request: (status, JSON or text), or None to hang up without one. A third
    part makes it hang up in the midst of its answer.
    """
    seen = Seen()
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            seen.append((self.command, self.path, self.headers.get("Authorization")))
            seen.headers.append(self.headers)
            given = left.pop(0)
            if given is None:
                self.close_connection = True
                return
            status, document, *cut = given
            body = (document if isinstance(document, str) else json.dumps(document)).encode()
            self.send_response(status)
            if status not in (204, 304):
                self.send_header("Content-Length", str(len(body) + len(cut)))
            if isinstance(document, dict) and "etag" in document:
                self.send_header("ETag", document["etag"])
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = bool(cut)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch, tmp_path):
    for name in ("RETROGRAD_URL", "RETROGRAD_API_KEY", "RETROGRAD_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_a_get_survives_dropped_connections():
    with serving(None, None, (200, {"id": "x"})) as (url, seen), Client(url, "rg_key") as client:
        assert client.job("x") == {"id": "x"}
    assert seen == [("GET", "/v1/jobs/x", "Bearer rg_key")] * 3


def test_a_creation_survives_dropped_connections_under_one_key():
    with serving(None, None, (202, {"id": "x"}), (202, {"id": "y"})) as (url, seen), Client(url) as client:
        assert client.create_job({}) == {"id": "x"}
        assert client.create_from_preset("digits-schedules") == {"id": "y"}
    keys = [headers["Idempotency-Key"] for headers in seen.headers]
    assert len(set(keys[:3])) == 1
    assert keys[3] != keys[0]  # another creation
    assert all(len(key) == 36 for key in keys)


def test_a_key_may_be_given():
    with serving((202, {"id": "x"})) as (url, seen), Client(url) as client:
        client.create_job({}, idempotency_key="mine")
    assert seen.headers[0]["Idempotency-Key"] == "mine"


@pytest.mark.parametrize("what", ["cancel", "retry", "pause", "resume"])
def test_other_posts_are_never_sent_twice(what):
    with (
        serving(None) as (url, seen),
        Client(url) as client,
        pytest.raises(ServerUnreachable, match="does not answer"),
    ):
        getattr(client, what)("x")
    assert seen == [("POST", f"/v1/jobs/x/{what}", None)]


def test_a_plan_is_asked_for_without_creating_anything():
    with serving((200, {"engine": "reversible"})) as (url, seen), Client(url) as client:
        assert client.plan({"a": 1}) == {"engine": "reversible"}
    assert seen == [("POST", "/v1/jobs?dry_run=true", None)]


def test_all_jobs_are_cancelled_however_many():
    answers = [(202, {"data": ["a"], "more": True}), (202, {"data": ["b"], "more": False})]
    with serving(*answers) as (url, seen), Client(url) as client:
        assert client.cancel_all(state="queued") == ["a", "b"]
    assert seen == [("POST", "/v1/jobs/cancel?state=queued", None)] * 2


def test_events_come_once_across_lost_connections_and_ends_without_an_end():
    def told(*numbers):
        lines = [
            f'id: {one}\r\nevent: x\r\ndata: {{"number": {one}}}\r\n\r\n: nothing new\r\n\r\n' for one in numbers
        ]
        return 200, "".join(lines)

    cut = (*told(3), "cut")
    with serving(told(1, 2), None, cut, told(), told(4), (204, "")) as (url, seen), Client(url) as client:
        assert [event["number"] for event in client.events("x")] == [1, 2, 3, 4]
    assert [headers["Last-Event-ID"] for headers in seen.headers] == ["0", "2", "2", "3", "3", "4"]
    assert {headers["Accept"] for headers in seen.headers} == {"text/event-stream"}


def test_events_of_a_server_that_stays_away_end_in_an_error(monkeypatch):
    monkeypatch.setattr("retrograd.client._FIRST_PAUSE_SECONDS", 0.001)
    with serving(*[None] * 7) as (url, _), Client(url) as client, pytest.raises(ServerUnreachable):
        list(client.events("x"))


def test_events_that_are_refused_are_an_error():
    problem = {"title": "Service Unavailable", "code": "busy", "detail": "too many"}
    with serving((503, problem)) as (url, _), Client(url) as client, pytest.raises(ApiError, match="too many"):
        list(client.events("x"))


def test_errors_carry_code_status_and_fields():
    problem = {
        "title": "Unprocessable Content",
        "status": 422,
        "code": "invalid_spec",
        "detail": "the job is not valid",
        "errors": [{"loc": ["training", "num_steps"], "msg": "must be greater than 0"}],
    }
    with serving((422, problem)) as (url, _), Client(url) as client, pytest.raises(ApiError) as caught:
        client.create_job({})
    assert (caught.value.status, caught.value.code) == (422, "invalid_spec")
    assert caught.value.errors == problem["errors"]
    assert "training.num_steps: must be greater than 0" in str(caught.value)


@pytest.mark.parametrize("answer", [(502, ["not", "ours"]), (404, {"message": "no such page"})])
def test_answers_of_strangers_are_named_as_such(answer):
    with serving(answer) as (url, _), Client(url) as client, pytest.raises(ApiError) as caught:
        client.job("x")
    assert caught.value.code == "unexpected_answer"
    assert caught.value.status == answer[0]


def test_without_a_server_the_remedy_is_named():
    with pytest.raises(ServerUnreachable, match="retrograd up"):
        Client()


def test_the_folder_leads_to_the_server_and_its_key_goes_nowhere_else(monkeypatch):
    with serving(*[(200, {"data": []})] * 4) as (url, seen):
        home = Home()
        home.make()
        key = home.ensure_api_key()
        home.url_file.write_text(url + "\n")
        with Client() as client:
            client.jobs()
        monkeypatch.setenv("RETROGRAD_URL", url.replace("127.0.0.1", "localhost"))
        with Client() as client:
            client.jobs()
        with Client(url) as client:
            client.jobs()
        monkeypatch.setenv("RETROGRAD_API_KEY", "rg_other")
        with Client() as client:
            client.jobs()
    assert [authorization for _, _, authorization in seen] == [
        f"Bearer {key}",
        None,
        f"Bearer {key}",
        "Bearer rg_other",
    ]


def test_wait_reports_and_returns_the_ended_job():
    states = ["queued", "running", "succeeded"]
    seen = []
    with serving(*[(200, {"state": state}) for state in states]) as (url, _), Client(url) as client:
        assert client.wait("x", lambda job: seen.append(job["state"])) == {"state": "succeeded"}
    assert seen == states


def test_wait_spares_the_server_what_it_has_sent():
    answers = [(200, {"state": "queued", "etag": '"1"'}), (304, ""), (200, {"state": "failed", "etag": '"2"'})]
    reported = []
    with serving(*answers) as (url, seen), Client(url) as client:
        assert client.wait("x", lambda job: reported.append(job["state"]))["state"] == "failed"
    assert reported == ["queued", "queued", "failed"]
    assert [headers["If-None-Match"] for headers in seen.headers] == [None, '"1"', '"1"']


def test_wait_gives_up_in_time():
    running = (200, {"state": "running"})
    with (
        serving(running) as (url, _),
        Client(url) as client,
        pytest.raises(TimeoutError, match="still running"),
    ):
        client.wait("x", seconds=0)


def test_an_interrupted_download_leaves_no_file(tmp_path):
    refusal = (409, {"title": "Conflict", "code": "nothing_learned", "detail": "too early"})
    with serving(refusal) as (url, _), Client(url) as client, pytest.raises(ApiError, match="too early"):
        client.download("x", tmp_path / "result.json")
    assert list(tmp_path.iterdir()) == []


def test_the_home_is_private_and_its_key_stays(tmp_path):
    home = Home(tmp_path / "home")
    home.make()
    key = home.ensure_api_key()
    assert key.startswith("rg_")
    assert len(key) >= 40
    assert Home(tmp_path / "home").ensure_api_key() == key
    assert home.path.stat().st_mode & 0o777 == 0o700
    assert home.api_key_file.stat().st_mode & 0o777 == 0o600
