"""What the clients send, and what they make of answers, against a real socket that answers as it is told."""

import json
import re
import socket
import threading
import time
import traceback
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from retrograd.client import ApiError, Client, IncompleteId, InvalidKey, ServerUnreachable, call, calls, retries
from retrograd.client.seen import SeenJob
from retrograd.home import Home

ID, OTHER = (f"b4bbd69e-0000-4000-8000-00000000000{letter}" for letter in "ab")
JOB = {
    "id": ID,
    "name": "small",
    "state": "queued",
    "progress": {"meta_iteration": 0, "of": 4, "eta_seconds": None},
}
BUSY = {"title": "Service Unavailable", "code": "busy", "detail": "too many are open"}
LIMITED = {"title": "Too Many Requests", "code": "rate_limited", "detail": "more than 3 reads"}


class Seen(list):
    """Requests as (method, path, authorization); and all headers of each."""

    def __init__(self):
        self.headers = []


@contextmanager
def serving(*answers):
    """A server that gives one answer to each request: (status, JSON or text), or None to hang up without one. A third
    part is a dict of headers, or makes it hang up in the midst of its answer: at once, or when an event is set.
    """
    seen = Seen()
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append((self.command, self.path, self.headers.get("Authorization")))
            seen.headers.append(self.headers)
            given = left.pop(0)
            self.close_connection = True
            if given is None:
                return
            status, document, *more = given
            headers = next((part for part in more if isinstance(part, dict)), {})
            cut = bool(more) and not isinstance(more[0], dict)
            body = (document if isinstance(document, str) else json.dumps(document)).encode()
            self.send_response(status)
            self.send_header("Connection", "close")
            if status not in (204, 304):
                self.send_header("Content-Length", str(len(body) + cut))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            if cut and isinstance(more[0], threading.Event):
                more[0].wait(10)

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


def test_a_get_survives_dropped_connections(connect, pauses):
    with serving(None, None, (200, JOB)) as (url, seen):
        assert connect(url, "rg_key").jobs.get(ID).document == JOB
    assert seen == [("GET", f"/v1/jobs/{ID}", "Bearer rg_key")] * 3
    assert [round(pause, 1) for pause in pauses] == [pytest.approx(0.2, abs=0.06), pytest.approx(0.4, abs=0.11)]


def test_it_does_not_go_on_for_ever(connect, pauses):
    with serving(*[None] * 9) as (url, seen), pytest.raises(ServerUnreachable, match=f"{url} does not answer"):
        connect(url).jobs.get(ID)
    assert len(seen) == 4


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:8000", "127.0.0.1", "ftp://127.0.0.1", "/v1"),
        *("http://host:abc", "http://host:99999", "http://[::1", "http://", "http://ho\nst"),
        *("http://a..b/", "http://" + "a" * 300, "http://xn--.invalid/", "http://.", "http://\ud800"),
    ],
)
def test_an_address_says_how_it_is_spoken_to(connect, url):
    with pytest.raises(
        ServerUnreachable, match=re.escape(f"{url!r} is no address of a server; write it as http://")
    ):
        connect(url)


def test_space_around_an_address_is_none_of_it(connect):
    with serving((200, JOB)) as (url, seen):
        assert connect(f" {url}/\n").jobs.get(ID).id == ID
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("http://me:hunter2@host:8000", "'http://…@host:8000' holds a name or a password"),
        ("http://hunter2@host/v", "'http://…@host/v' holds a name or a password"),
        ("http://me:hunter2@", "'http://…@' is no address of a server"),
        ("me:hunter2@host", "'…@host' is no address of a server"),
        ("http://me:hun@ter2@host:abc", "'http://…@host:abc' is no address of a server"),
        ("http://host/?token=hunter2", "'http://host/?…' goes on after its path"),
        ("http://host#hunter2", "'http://host#…' goes on after its path"),
    ],
)
def test_what_is_nobodys_business_in_an_address_is_not_repeated(connect, given, says):
    with pytest.raises(ServerUnreachable, match=re.escape(says)) as caught:
        connect(given)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value, chain=True))
    assert "ter2" not in str(caught.value)


@pytest.mark.parametrize(
    "named", ["http://elsewhere.example", "http://10.0.0.1:8000", "http://127.0.0.1.example", "x"]
)
def test_a_folder_names_no_server_elsewhere(connect, monkeypatch, named):
    monkeypatch.setenv("RETROGRAD_API_KEY", "rg_mine")
    Home().make()
    Home().url_file.write_text(named)
    with pytest.raises(ServerUnreachable, match="is not on this machine|is no address of a server"):
        connect()
    monkeypatch.setenv("RETROGRAD_URL", "http://elsewhere.example")  # which is the user's own word
    connect()


@pytest.mark.parametrize("named", ["http://127.0.0.1:9", "http://localhost:9", "http://[::1]:9"])
def test_a_folder_names_servers_of_this_machine(connect, named):
    Home().make()
    Home().url_file.write_text(named)
    connect()


@pytest.mark.parametrize("given", ["rg_sec\nret", "rg_sec…ret", "rg_sec\x00ret"])
def test_what_can_be_no_key_is_refused_and_not_repeated(connect, given):
    with pytest.raises(InvalidKey, match="other signs than printable ASCII") as caught:
        connect("http://127.0.0.1:9", given)
    assert "rg_sec" not in "".join(traceback.format_exception(caught.value))


def test_space_around_a_key_is_none_of_it(connect):
    with serving((200, JOB)) as (url, seen):
        connect(url, " rg_key\n").jobs.get(ID)
    assert seen == [("GET", f"/v1/jobs/{ID}", "Bearer rg_key")]


def test_a_key_that_cannot_be_written_as_http_is_neither_sent_nor_repeated(connect, pauses):
    given = "sec\nret"
    with serving() as (url, seen), pytest.raises(ValueError, match="idempotency_key: is no key") as caught:
        connect(url).jobs.create({}, idempotency_key=given)
    assert (seen, pauses) == ([], [])
    assert "sec" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None  # which would show it in the traceback


def test_long_silence_is_borne_only_where_an_answer_is_awaited():
    with httpx.Client(base_url="http://127.0.0.1:9", timeout=7) as http:
        usual = calls.get_job(ID).request(http).extensions["timeout"]
        long = calls.plan({}).request(http).extensions["timeout"]
        hurried = calls.look_at_job(ID, None, time.monotonic() + 3).request(http).extensions["timeout"]
    assert usual == {"connect": 7, "read": 7, "write": 7, "pool": 7}
    assert long == usual | {"read": 120}
    assert all(2 < seconds <= 3 for seconds in hurried.values())


def test_a_silent_server_is_asked_again_but_minutes_are_not_waited_for_twice(connect, pauses, monkeypatch):
    monkeypatch.setattr(calls, "_PLAN_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = connect(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.05)
        for ask in (lambda: client.jobs.get(ID), lambda: client.jobs.plan({})):
            pauses.clear()
            with pytest.raises(ServerUnreachable):
                ask()
            assert len(pauses) == 3
        monkeypatch.setattr(retries, "_LONG_SECONDS", 0.01)  # as if a plan took minutes
        pauses.clear()
        with pytest.raises(ServerUnreachable):
            client.jobs.plan({})
        assert pauses == []


def test_a_stream_that_has_fallen_silent_is_opened_anew(connect, pauses, monkeypatch):
    monkeypatch.setattr(calls, "_SILENCE_SECONDS", 0.2)
    released = threading.Event()
    with serving((200, JOB), (*told(1), released), told(2), (204, "")) as (url, seen):
        assert [event["number"] for event in connect(url).jobs.get(ID).events()] == [1, 2]
        released.set()
    assert len(seen) == 4


def test_a_creation_survives_dropped_connections_under_one_key(connect, pauses):
    with serving(None, None, (202, JOB), (202, JOB | {"id": OTHER})) as (url, seen):
        client = connect(url)
        assert client.jobs.create({}).id == ID
        assert client.jobs.create(preset="digits-schedules").id == OTHER
    keys = [headers["Idempotency-Key"] for headers in seen.headers]
    assert len(set(keys[:3])) == 1
    assert keys[3] != keys[0]  # another creation
    assert all(len(key) == 36 for key in keys)
    assert seen[3][1] == "/v1/jobs?preset=digits-schedules"


def test_a_key_may_be_given(connect):
    with serving((202, JOB)) as (url, seen):
        connect(url).jobs.create({}, idempotency_key="mine")
    assert seen.headers[0]["Idempotency-Key"] == "mine"


@pytest.mark.parametrize("given", [{}, {"spec": {}, "preset": "digits-schedules"}])
def test_a_creation_is_of_a_spec_or_of_a_preset(connect, given):
    with pytest.raises(ValueError, match="`spec` or the name of one as `preset`"):
        connect("http://127.0.0.1:9").jobs.create(**given)


@pytest.mark.parametrize("given", ["digits-schedules", Path("job.json"), '{"name": "x"}' * 99, 3])
def test_what_is_no_job_is_refused_with_what_may_be_meant(connect, given):
    client = connect("http://127.0.0.1:9")
    for ask in (client.jobs.create, client.jobs.plan):
        with pytest.raises(TypeError, match=r'a preset is named by jobs\.create\(preset="…"\)') as caught:
            ask(given)
        assert "json.loads" in str(caught.value)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("given", ["b4bbd69e", "latest", "", "../" + ID])
def test_what_is_no_whole_id_is_refused(connect, given):
    with pytest.raises(
        IncompleteId, match=r"is no whole id of a job.*`client\.jobs\.list\(\)` has jobs with theirs"
    ):
        connect("http://127.0.0.1:9").jobs.get(given)


@pytest.mark.parametrize("what", ["cancel", "retry", "pause", "resume", "delete"])
def test_what_may_have_been_heard_is_not_said_twice(connect, what):
    with serving((200, JOB), None) as (url, seen):
        job = connect(url).jobs.get(ID)
        with pytest.raises(ServerUnreachable, match="does not answer"):
            getattr(job, what)()
    assert len(seen) == 2


def test_a_server_is_asked_again_when_it_wants_to_be(connect, pauses):
    answers = [(429, LIMITED, {"Retry-After": "7"}), (503, BUSY, {"Retry-After": "2"}), (200, JOB)]
    with serving(*answers) as (url, seen):
        assert connect(url).jobs.get(ID).id == ID
    assert len(seen) == 3
    assert 7 <= pauses[0] <= 9
    assert 2 <= pauses[1] <= 3


def test_what_was_refused_for_its_rate_is_said_again_whatever_it_is(connect, pauses):
    with serving((200, JOB), (429, LIMITED, {"Retry-After": "1"}), (202, JOB | {"state": "cancelled"})) as (
        url,
        _,
    ):
        assert connect(url).jobs.get(ID).cancel().state == "cancelled"


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (429, {}),  # a quota, say: waiting does not help
        (429, {"Retry-After": "86400"}),  # nor does it here, before tomorrow
        (503, {"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"}),
        (500, {"Retry-After": "1"}),
    ],
)
def test_other_refusals_are_final(connect, pauses, status, headers):
    with serving((status, BUSY, headers)) as (url, seen), pytest.raises(ApiError) as caught:
        connect(url).jobs.get(ID)
    assert (len(seen), pauses) == (1, [])
    assert caught.value.retry_after == (
        86400 if headers.get("Retry-After") == "86400" else caught.value.retry_after
    )


@pytest.mark.parametrize("status", [502, 503, 504])
def test_what_a_proxy_says_of_a_server_that_is_away_is_a_loss(connect, pauses, status):
    away = (status, "<html>")
    with serving((202, JOB), *[away] * 7, (200, JOB | {"state": "succeeded"})) as (url, _):
        assert connect(url).jobs.create({}).wait().state == "succeeded"
    assert sum(pauses) > 25
    with serving((200, JOB), away, *[away] * 4) as (url, seen):
        job = connect(url).jobs.get(ID)
        for ask, times in ((job.cancel, 1), (job.refresh, 4)):
            before = len(seen)
            with pytest.raises(ApiError):
                ask()
            assert len(seen) - before == times


def test_a_proxy_that_would_not_wait_for_minutes_is_not_asked_again(connect, pauses):
    with serving((504, "<html>")) as (url, _), pytest.raises(ApiError):
        connect(url).jobs.plan({})
    assert pauses == []


def test_a_quota_is_not_waited_for(connect, pauses):
    full = {"title": "Too Many Requests", "code": "quota_exceeded", "detail": "100 jobs are queued"}
    with serving((429, full, {"Retry-After": "30"})) as (url, _), pytest.raises(ApiError, match="are queued"):
        connect(url).jobs.create(preset="digits-schedules")
    assert pauses == []


def test_a_busy_server_may_have_heard_what_must_not_be_repeated(connect, pauses):
    with serving((200, JOB), (503, BUSY, {"Retry-After": "1"})) as (url, seen):
        job = connect(url).jobs.get(ID)
        with pytest.raises(ApiError, match="too many"):
            job.retry()
    assert (len(seen), pauses) == (2, [])


def test_a_server_that_keeps_refusing_is_given_up_after_two_minutes(connect, pauses):
    with serving(*[(503, BUSY, {"Retry-After": "30"})] * 9) as (url, seen), pytest.raises(ApiError):
        connect(url).jobs.get(ID)
    assert 75 < sum(pauses) <= 120
    assert len(seen) == len(pauses) + 1


def test_a_plan_is_asked_for_without_creating_anything(connect):
    with serving((200, {"engine": "reversible"})) as (url, seen):
        assert connect(url).jobs.plan({"a": 1}) == {"engine": "reversible"}
    assert seen == [("POST", "/v1/jobs?dry_run=true", None)]


def test_all_jobs_are_cancelled_however_many(connect):
    answers = [(202, {"data": ["a"], "more": True}), (202, {"data": ["b"], "more": False})]
    with serving(*answers) as (url, seen):
        assert connect(url).jobs.cancel_all(state="queued") == ["a", "b"]
    assert seen == [("POST", "/v1/jobs/cancel?state=queued", None)] * 2


def test_pages_are_asked_for_as_they_are_needed(connect):
    pages = [
        (200, {"data": [JOB | {"id": ID[:-1] + one} for one in ids], "next": next})
        for ids, next in (("ab", "c"), ("d", None))
    ]
    with serving(*pages) as (url, seen):
        jobs = connect(url).jobs.all(state="queued", search="small")
        assert [next(jobs).id for _ in range(2)] == [ID, OTHER]
        assert len(seen) == 1
        assert [job.id for job in jobs] == [ID[:-1] + "d"]
    assert [path for _, path, _ in seen] == [
        "/v1/jobs?limit=100&state=queued&search=small",
        "/v1/jobs?limit=100&state=queued&search=small&after=c",
    ]


def told(*numbers):
    lines = [f'id: {one}\r\nevent: x\r\ndata: {{"number": {one}}}\r\n\r\n: nothing new\r\n\r\n' for one in numbers]
    return 200, "".join(lines)


def test_events_come_once_across_lost_connections_and_ends_without_an_end(connect, pauses):
    cut = (*told(3), "cut")
    half = (200, 'id: 4\r\nevent: x\r\ndata: {"number": 4')  # all that there is, in order, but no whole event
    with serving((200, JOB), told(1, 2), None, cut, half, told(), told(4), (204, "")) as (url, seen):
        assert [event["number"] for event in connect(url).jobs.get(ID).events()] == [1, 2, 3, 4]
    assert [headers["Last-Event-ID"] for headers in seen.headers[1:]] == ["0", "2", "2", "3", "3", "3", "4"]
    assert {headers["Accept"] for headers in seen.headers[1:]} == {"text/event-stream"}


def test_a_stream_that_says_that_nothing_is_new_is_alive(connect, pauses):
    beat = (200, ": nothing new\r\n\r\n", "cut")
    with serving((200, JOB), *[beat] * 12, told(1), (204, "")) as (url, _):
        assert [event["number"] for event in connect(url).jobs.get(ID).events()] == [1]


def test_streams_that_end_without_an_event_are_opened_ever_less_often(connect, pauses):
    with serving((200, JOB), *[told()] * 12, told(1), (204, "")) as (url, _):
        assert [event["number"] for event in connect(url).jobs.get(ID).events()] == [1]
    assert 85 < sum(pauses) < 115
    assert max(pauses) <= 16
    assert pauses[-1] == 0


def test_events_of_a_server_that_stays_away_end_in_an_error(connect, pauses):
    with serving((200, JOB), *[None] * 8) as (url, seen):
        job = connect(url).jobs.get(ID)
        with pytest.raises(ServerUnreachable):
            list(job.events())
    assert len(seen) == 9
    assert sum(pauses) > 25


def test_events_that_are_refused_are_an_error(connect, pauses):
    with serving((200, JOB), (503, BUSY, {"Retry-After": "2"}), (404, BUSY)) as (url, _):
        job = connect(url).jobs.get(ID)
        with pytest.raises(ApiError, match="too many"):
            list(job.events())
    assert len(pauses) == 1


def test_errors_carry_code_status_and_fields(connect):
    problem = {
        "title": "Unprocessable Content",
        "status": 422,
        "code": "invalid_spec",
        "detail": "the job is not valid",
        "errors": [{"loc": ["training", "num_steps"], "msg": "must be greater than 0"}],
    }
    with serving((422, problem)) as (url, _), pytest.raises(ApiError) as caught:
        connect(url).jobs.create({})
    assert (caught.value.status, caught.value.code) == (422, "invalid_spec")
    assert caught.value.errors == problem["errors"]
    assert "training.num_steps: must be greater than 0" in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((500, ["not", "ours"]), "unexpected_answer"),
        ((404, {"message": "no such page"}), "unexpected_answer"),
        ((200, "<html>"), "not_retrograd"),
        ((200, ["a", "list"]), "not_retrograd"),
    ],
)
def test_answers_of_strangers_are_named_as_such(connect, answer, code):
    with serving(answer) as (url, _), pytest.raises(ApiError) as caught:
        connect(url).jobs.get(ID)
    assert (caught.value.code, caught.value.status) == (code, answer[0])


def test_without_a_server_the_remedy_is_named(connect):
    with pytest.raises(ServerUnreachable, match="retrograd up"):
        connect()


def test_the_folder_leads_to_the_server_and_its_key_goes_nowhere_else(monkeypatch, connect):
    with serving(*[(200, {"data": [], "next": None})] * 4) as (url, seen):
        home = Home()
        home.make()
        key = home.ensure_api_key()
        home.url_file.write_text(url + "\n")
        connect().jobs.list()
        monkeypatch.setenv("RETROGRAD_URL", url.replace("127.0.0.1", "localhost"))
        connect().jobs.list()
        connect(url).jobs.list()
        monkeypatch.setenv("RETROGRAD_API_KEY", "rg_other")
        connect().jobs.list()
    assert [authorization for _, _, authorization in seen] == [
        f"Bearer {key}",
        None,
        f"Bearer {key}",
        "Bearer rg_other",
    ]


def test_a_client_is_shown_by_its_address(connect):
    shown = repr(connect("http://127.0.0.1:9/", "rg_secret"))
    assert re.fullmatch(r"<(Async)?Client of http://127\.0\.0\.1:9>", shown)


def test_the_words_of_the_servers_library_are_not_repeated(connect):
    errors = [{"loc": ["a"], "msg": "Value error, must be a valid tuple or Value error, null"}]
    refused = (422, {"code": "invalid_spec", "detail": "Value error, x", "errors": errors})
    with serving(refused) as (url, _), pytest.raises(ApiError) as caught:
        connect(url).jobs.create({})
    assert caught.value.errors == [{"loc": ["a"], "msg": "must be a valid list or null"}]
    assert "a: must be a valid list or null (invalid_spec" in str(caught.value)


def test_the_key_is_not_shown_by_what_may_be_printed():
    with Client("http://127.0.0.1:9", "rg_secret") as client:
        assert "rg_secret" not in repr(vars(client))


def test_wait_reports_and_returns_the_ended_job(connect, pauses):
    states = ["queued", "running", "succeeded"]
    seen = []
    with serving((202, JOB), *[(200, JOB | {"state": state}) for state in states]) as (url, _):
        job = connect(url).jobs.create({}).wait(progress=lambda job: seen.append(job["state"]))
        assert (job.state, job.ended) == ("succeeded", True)
    assert seen == states
    assert pauses == pytest.approx([0.2, 0.26])


def test_wait_spares_the_server_what_it_has_sent(connect, pauses):
    def version(number, state):
        return 200, JOB | {"state": state}, {"ETag": f'"{number}"'}

    reported = []
    with serving(version(0, "queued"), version(1, "queued"), (304, ""), version(2, "failed")) as (url, seen):
        connect(url).jobs.get(ID).wait(progress=lambda job: reported.append(job.state))
    assert reported == ["queued", "queued", "failed"]
    assert [headers["If-None-Match"] for headers in seen.headers] == [None, '"0"', '"1"', '"1"']


def test_a_document_and_its_version_stay_together_whoever_looks_meanwhile():
    class Shared(SeenJob):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if meanwhile:  # another thread has its answer right now
                self.see(meanwhile.pop())

    meanwhile = []
    job = Shared(call.Seen({"version": 0}, "0"))
    meanwhile.append(call.Seen({"version": 1}, "1"))
    job.see(call.Seen({"version": 2}, "2"))
    assert str(job["version"]) == job.etag


def test_wait_gives_up_in_time(connect):
    running = (200, JOB | {"state": "running"})
    with serving(*[running] * 9) as (url, _):
        job = connect(url).jobs.get(ID)
        for seconds in (0, 0.3):
            with pytest.raises(TimeoutError, match=f"still running after {seconds:g} s"):
                job.wait(seconds)


def test_wait_gives_up_in_time_on_a_server_that_is_silent_or_busy(connect, monkeypatch):
    monkeypatch.setattr(call, "_LEAST_SECONDS", 0.1)
    released = threading.Event()
    silent, busy = (200, "", released), (503, BUSY, {"Retry-After": "60"})
    for answers in ([silent] * 9, [busy] * 9):
        with serving((200, JOB), *answers) as (url, _):
            job = connect(url).jobs.get(ID)
            began = time.monotonic()
            with pytest.raises(TimeoutError, match=rf"job {ID} was queued; since then, in 0\.5 s"):
                job.wait(0.5)
            released.set()
        assert time.monotonic() - began < 8


def test_progress_that_would_have_to_be_awaited_is_refused(connect):
    async def show(job):
        pass

    with (
        serving((200, JOB)) as (url, _),
        pytest.raises(TypeError, match="plain function instead of an `async def`"),
    ):
        connect(url).jobs.get(ID).wait(progress=show)


def test_arrays_of_other_names_are_refused_and_the_names_told(connect):
    with pytest.raises(ValueError, match="named file; name one `images` or `inputs`"):
        connect("http://127.0.0.1:9").datasets.upload({"images": [], "labels": [], "file": []}, "mine")


def test_wait_outlives_a_server_that_starts_anew(connect, pauses):
    with serving((202, JOB), *[None] * 7, (200, JOB | {"state": "succeeded"})) as (url, _):
        assert connect(url).jobs.create({}).wait().state == "succeeded"
    assert sum(pauses) > 25


def test_an_interrupted_download_leaves_no_file(connect, tmp_path):
    refusal = (409, {"title": "Conflict", "code": "nothing_learned", "detail": "too early"})
    with serving((200, JOB), refusal) as (url, _), pytest.raises(ApiError, match="too early"):
        connect(url).jobs.get(ID).download(tmp_path / "result.json")
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
