"""The client's own promises, against real sockets; the API's are tested with the whole stack."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from retrograd.client import ApiError, Client, ServerUnreachable
from retrograd.home import Home


@contextmanager
def serving(*answers):
    """A server that gives one answer to each request: (status, JSON), or None to hang up without one."""
    seen = []
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            seen.append((self.command, self.path, self.headers.get("Authorization")))
            given = left.pop(0)
            if given is None:
                self.close_connection = True
                return
            status, document = given
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

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


def test_a_post_is_never_sent_twice():
    with (
        serving(None) as (url, seen),
        Client(url) as client,
        pytest.raises(ServerUnreachable, match="does not answer"),
    ):
        client.create_from_preset("digits-schedules")
    assert len(seen) == 1


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
