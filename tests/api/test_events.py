"""A job's events, in pages and as a stream: all of them, once, in order, wherever a reader begins."""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text

from core.store import jobs, leases
from retrograd.client import Client
from retrograd.local.servers import free_port
from tests.api.problems import assert_problem
from tests.api.test_jobs import FOUND
from tests.builders import claim, document, eventually, record, values
from tests.conftest import running, serving
from tests.store.test_leases import write

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"max_streams": 4, "stream_poll_seconds": 60.0})  # woken, or the test hangs


@pytest.fixture
def job_id(client):
    return UUID(client.post("/v1/jobs", json=document()).json()["id"])


def live(sessions, job_id, iterations=3):
    """Do all that a worker does; 5 + iterations events with the creation."""
    lease = claim(sessions, job_id)
    write(sessions, leases.save_start, lease, values(0), {"initial": FOUND}, {"device": "cpu"})
    for number in range(iterations):
        write(sessions, leases.save_iteration, lease, record(number, best=0, best_loss=1.0))
    write(sessions, leases.fail, lease, "diverged", "it\ndid\r\n: \N{LINE SEPARATOR}é", {})


def path(job_id):
    return f"/v1/jobs/{job_id}/events"


@contextmanager
def following(client, job_id, last=None, **options):
    """An open stream, and its events as they come: (id, kind, data)."""
    headers = STREAM | ({} if last is None else {"Last-Event-ID": str(last)})
    with client.stream("GET", path(job_id), headers=headers, **options) as answer:
        yield answer, told(answer)


def told(answer):
    event = {}
    for line in answer.iter_lines():
        name, _, value = line.partition(": ")
        if name:
            assert name not in event, "an event in more lines than one"
            event[name] = value
        elif event:
            yield int(event["id"]), event["event"], json.loads(event["data"])
            event = {}


def page(client, job_id, **params):
    return client.get(path(job_id), params=params).json()


def test_pages_follow_each_other(client, sessions, job_id):
    live(sessions, job_id)
    everything = page(client, job_id)["data"]
    assert [event["number"] for event in everything] == list(range(1, 8))
    kinds = [event["kind"] for event in everything]
    assert kinds == ["created", "started", "begun", "iteration", "iteration", "iteration", "failed"]
    assert everything[3]["data"] == {"iteration": 0, "outer_loss": 1.0}
    seen, after = [], 0
    while after is not None:
        found = page(client, job_id, after=after, limit=2)
        seen += found["data"]
        after = found["next"]
    assert seen == everything
    assert page(client, job_id, after=2**63 - 1) == {"data": [], "next": None}


def test_a_stream_tells_what_pages_do_and_ends(client, sessions, job_id):
    live(sessions, job_id)
    everything = page(client, job_id)["data"]
    with following(client, job_id) as (answer, events):
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        found = list(events)
    assert [data for _, _, data in found] == everything
    assert [(number, kind) for number, kind, _ in found] == [(one["number"], one["kind"]) for one in everything]


def test_resumed_anywhere_it_tells_exactly_the_rest(client, sessions, job_id):
    live(sessions, job_id)
    everything = page(client, job_id)["data"]
    for last in range(len(everything)):
        with following(client, job_id, last) as (_, events):
            assert [data for _, _, data in events] == everything[last:]
    with following(client, job_id, len(everything)) as (answer, events):
        assert (answer.status_code, list(events)) == (204, [])  # browsers come back no more


@pytest.mark.fault(
    injected="an SSE stream dropped anywhere and resumed, while the job goes on",
    checked="every event once, in order",
)
def test_resumed_anywhere_while_it_goes_on_it_tells_exactly_the_rest(client, sessions, job_id):
    """Readers that drop the stream after every event miss nothing and hear nothing twice."""

    def drop_and_resume(every):
        heard, last = [], 0
        while not heard or heard[-1] != "failed":
            with following(client, job_id, last) as (_, events):
                for _, (number, kind, _) in zip(range(every), events, strict=False):
                    assert number == last + 1
                    last = number
                    heard.append(kind)
        return heard

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(drop_and_resume, every) for every in (1, 2, 100)]
        live(sessions, job_id, iterations=4)
        heard = [reader.result(timeout=60) for reader in readers]
    kinds = [event["kind"] for event in page(client, job_id)["data"]]
    assert heard == [kinds] * 3


def test_events_are_told_as_they_are_committed(client, sessions, job_id):
    with following(client, job_id, 1) as (_, events):
        claim(sessions, job_id)
        assert next(events)[1] == "started"
        with sessions() as session:
            jobs.cancel(session, UUID(project_of(sessions, job_id)), job_id)
            session.rollback()  # is never told
        write(sessions, jobs.pause, UUID(project_of(sessions, job_id)), job_id)
        assert next(events)[1] == "pause_requested"


def project_of(sessions, job_id):
    with sessions() as session:
        return str(session.scalar(text("SELECT project_id FROM jobs WHERE id = :id"), {"id": job_id}))


def test_a_retried_job_goes_on_after_its_end(client, sessions, job_id):
    live(sessions, job_id, iterations=1)
    client.post(f"/v1/jobs/{job_id}/retry").raise_for_status()
    with following(client, job_id, 0) as (_, events):
        heard = [next(events)[1] for _ in range(6)]
        assert heard[-2:] == ["failed", "retried"]  # its first end does not end the stream
        client.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
        assert [kind for _, kind, _ in events] == ["cancelled"]


def test_a_stream_of_a_deleted_job_ends(client, sessions, job_id):
    with following(client, job_id) as (_, events):
        assert next(events)[1] == "created"
        with sessions.begin() as session:
            session.execute(text("DELETE FROM jobs"))
            session.execute(text("SELECT pg_notify('retrograd_events', :id)"), {"id": str(job_id)})
        assert list(events) == []


def test_without_notices_a_stream_looks_by_itself(settings, sessions):
    with serving(settings.model_copy(update={"stream_poll_seconds": 0.1})) as client:
        job_id = UUID(client.post("/v1/jobs", json=document()).json()["id"])
        with following(client, job_id) as (_, events):
            assert next(events)[1] == "created"
            with sessions.begin() as session:  # behind everyone's back
                session.execute(
                    text(
                        "INSERT INTO events (job_id, number, kind, data) "
                        "SELECT id, 2, 'started', '{}' FROM jobs; UPDATE jobs SET last_event = 2"
                    )
                )
            assert next(events)[1] == "started"


@pytest.mark.fault(
    injected="connections to Postgres cut under an SSE stream", checked="every event once, in order"
)
def test_a_stream_outlives_the_database_connections(settings, sessions):
    with serving(settings.model_copy(update={"stream_poll_seconds": 0.1})) as client:
        job_id = UUID(client.post("/v1/jobs", json=document()).json()["id"])
        with following(client, job_id) as (_, events):
            assert next(events)[1] == "created"
            with sessions.begin() as session:
                session.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                        "AND application_name IN ('retrograd api', 'retrograd events')"
                    )
                )
            claim(sessions, job_id)
            assert next(events)[1] == "started"
        eventually(lambda: listeners(sessions) == 1)


def listeners(sessions):
    return connections(sessions, "application_name = 'retrograd events'")


def connections(sessions, condition):
    with sessions() as session:
        query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND {condition}"
        return session.scalar(text(query))


def test_streams_are_counted_and_released(client, sessions, settings, job_id):
    with opened(client, job_id, settings.max_streams):
        refused = client.get(path(job_id), headers=STREAM)
        assert_problem(refused, 503, "busy")
        assert refused.headers["Retry-After"] == "2"
        assert page(client, job_id)["data"]  # pages are never refused
        assert listeners(sessions) == 1
        assert connections(sessions, "application_name = 'retrograd api' AND state <> 'idle'") == 0
    for _ in range(2):  # all of them can be had again
        eventually(lambda: all_can_be_opened(client, job_id, settings.max_streams))


@contextmanager
def opened(client, job_id, number):
    """So many streams, each after its first event."""
    with ExitStack() as stack:
        streams = [stack.enter_context(following(client, job_id)) for _ in range(number)]
        assert {next(events)[1] for _, events in streams} == {"created"}
        yield streams  # referred to: httpx closes an answer that nobody reads any more


def all_can_be_opened(client, job_id, number):
    with ExitStack() as stack:
        answers = [stack.enter_context(following(client, job_id))[0] for _ in range(number)]
        return all(answer.status_code == 200 for answer in answers)


def test_clients_that_vanish_leave_nothing_open(client, sessions, settings, job_id):
    """Gone before, while and after the first event is told."""
    import socket

    address = (client.base_url.host, client.base_url.port)
    request = (
        f"GET {path(job_id)} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
        f"Authorization: {client.headers['Authorization']}\r\n\r\n"
    ).encode()
    for bytes_read in (0, 0, 1, 300) * 5:
        with socket.create_connection(address) as connection:
            connection.sendall(request)
            connection.recv(bytes_read) if bytes_read else None
    eventually(lambda: all_can_be_opened(client, job_id, settings.max_streams))


def test_a_stream_without_news_is_kept_open_by_comments(settings, sessions):
    with serving(settings.model_copy(update={"stream_heartbeat_seconds": 0.05})) as client:
        job_id = client.post("/v1/jobs", json=document()).json()["id"]
        with client.stream("GET", path(job_id), headers=STREAM | {"Last-Event-ID": "1"}) as answer:
            lines = answer.iter_lines()
            comments = [next(lines) for _ in range(6)]
    assert comments == [": nothing new", ""] * 3


@pytest.mark.parametrize("wrong", ["-1", str(2**63), "1e3", "nan", "9" * 5000, "x", "", "1.5", "0x1"])
def test_a_last_event_id_is_a_number_of_an_event(client, job_id, wrong):
    answer = client.get(path(job_id), headers=STREAM | {"Last-Event-ID": wrong})
    problem = assert_problem(answer, 422, "invalid_parameter")
    assert problem["errors"][0]["loc"] == ["header", "Last-Event-ID"]


def test_an_event_that_has_not_happened_cannot_be_the_last(client, job_id):
    answer = client.get(path(job_id), headers=STREAM | {"Last-Event-ID": "2"})
    assert "the latest of this job is 1" in assert_problem(answer, 422, "invalid_parameter")["detail"]
    assert_problem(client.get(f"{path(job_id)}?after=2", headers=STREAM), 422, "invalid_parameter")
    assert_problem(client.get(f"{path(job_id)}?after=-1"), 422, "invalid_parameter")


def test_another_projects_events_are_not_told(client, sessions, job_id):
    from core.store import keys

    key = keys.new_key()
    with sessions.begin() as session:
        keys.add(session, keys.ensure_project(session, "other"), key)
    for headers in ({}, STREAM):
        answer = client.get(path(job_id), headers={"Authorization": f"Bearer {key}"} | headers)
        assert_problem(answer, 404, "unknown_job")


def test_json_is_answered_unless_a_stream_is_asked_for(client, job_id):
    for accept in ("*/*", "application/json", "text/html", "text/event-streams", ""):
        answer = client.get(path(job_id), headers={"Accept": accept})
        assert answer.headers["Content-Type"] == "application/json"
    client.post(f"/v1/jobs/{job_id}/cancel")
    for accept in ("text/event-stream", "text/html, Text/Event-Stream;q=0.9"):
        answer = client.get(path(job_id), headers={"Accept": accept})
        assert answer.headers["Content-Type"].startswith("text/event-stream")


def test_a_server_that_shuts_down_ends_its_streams_at_once(settings, sessions, tmp_path):
    port = free_port()
    key = settings.bootstrap_api_key.get_secret_value()
    log = tmp_path / "api.log"
    arguments = ["--host", "127.0.0.1", "--port", str(port)]
    with running("api", settings, log, *arguments, RETROGRAD_BOOTSTRAP_API_KEY=key) as process:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {key}"}
        ) as client:
            eventually(lambda: is_up(client))
            job_id = client.post("/v1/jobs", json=document()).json()["id"]
            with following(client, job_id) as (_, events):
                assert next(events)[1] == "created"
                began = time.monotonic()
                os.kill(process.pid, signal.SIGTERM)
                assert list(events) == []  # ended in order, not cut off
        assert process.wait(10) == -signal.SIGTERM
        assert time.monotonic() - began < 5
    assert "Traceback" not in log.read_text()


def is_up(client):
    try:
        return client.get("/healthz").is_success
    except httpx.TransportError:
        return False


def test_there_may_be_more_streams_than_threads_and_connections(settings, sessions):
    number = 60
    with serving(settings.model_copy(update={"max_streams": number})) as client:
        job_id = UUID(client.post("/v1/jobs", json=document()).json()["id"])
        with opened(client, job_id, number) as streams:
            assert connections(sessions, "application_name = 'retrograd events'") == 1
            assert client.get(f"/v1/jobs/{job_id}").json()["state"] == "queued"
            client.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
            assert all([kind for _, kind, _ in events] == ["cancelled"] for _, events in streams)


def test_our_client_follows_a_job_to_its_end(client, sessions, job_id):
    key = client.headers["Authorization"].removeprefix("Bearer ")
    with Client(str(client.base_url), key) as ours, ThreadPoolExecutor(1) as pool:
        job = ours.jobs.get(str(job_id))
        heard = pool.submit(lambda: list(job.events()))
        live(sessions, job_id)
        assert heard.result(timeout=30) == page(client, job_id)["data"]
        assert [event["number"] for event in job.events(after=5)] == [6, 7]


def test_a_stream_ends_with_the_key_that_opened_it(settings, client, sessions, job_id):
    made = client.post("/v1/keys", json={"name": "reader", "scopes": ["read"]}).json()
    with serving(settings, key=made["key"]) as reader, following(reader, job_id) as (_, events):
        assert next(events)[1] == "created"
        assert client.delete(f"/v1/keys/{made['id']}").status_code == 204
        live(sessions, job_id)
        assert list(events) == []
    with following(client, job_id) as (_, events):  # the control
        assert len(list(events)) == 7
