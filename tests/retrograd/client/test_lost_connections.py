"""Connections to the real API that a relay cuts: nothing is done twice, nothing is missing."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from uuid import UUID

import httpx
import pytest

from retrograd.client import ServerUnreachable
from retrograd.local.servers import free_port
from tests.api.test_events import live
from tests.api.test_jobs import work
from tests.builders import SMALL
from tests.retrograd.client.relay import relaying

STREAM, POST = b"text/event-stream", b"POST "


@pytest.fixture
def through(connect, url, key):
    """Makes a client whose connections are cut as told; returns it, and what was cut so far."""
    with ExitStack() as stack:

        def make(*cuts, **options):
            relayed, cut = stack.enter_context(relaying(url, *cuts, **options))
            return connect(relayed, key), cut

        yield make


@pytest.mark.fault(
    injected="answers to the creation of a job lost whole, in their head, and in their body",
    checked="one job; the client has it",
)
def test_a_creation_whose_answers_are_lost_is_one_job(through, ours):
    client, cut = through(0, 20, 400)
    job = client.jobs.create(SMALL)
    assert len(cut) == 3
    assert [one.id for one in ours.jobs.list()] == [job.id]
    assert job["spec"]["name"] == "small"


def test_without_one_key_it_would_be_several(through, ours, key):
    """The control: the relay does let requests through before it cuts the answers."""
    client, cut = through(0, 0)
    for each in ("a", "b"):
        client.jobs.create(SMALL, idempotency_key=each)
    assert len(cut) == 2
    assert len(ours.jobs.list()) == 2


@pytest.mark.parametrize("change", ["cancel", "pause"])
def test_what_must_not_be_repeated_may_have_been_heard(through, ours, change):
    client, cut = through(0, only=POST)
    job = client.jobs.get(ours.jobs.create(SMALL).id)
    with pytest.raises(ServerUnreachable):
        getattr(job, change)()
    assert len(cut) == 1
    assert job.refresh().state == {"cancel": "cancelled", "pause": "paused"}[change]


def test_what_never_left_is_sent_again_whatever_it_is(connect, url, key, ours):
    job, port = ours.jobs.create(SMALL), free_port()
    client = connect(f"http://127.0.0.1:{port}", key)
    with ExitStack() as stack:
        later = threading.Timer(0.1, lambda: stack.enter_context(relaying(url, port=port)))
        later.start()
        assert client.jobs.cancel_all() == [job.id]
        later.join()


@pytest.mark.fault(
    injected="an SSE stream cut again and again, in the midst of events, while the job goes on",
    checked="every event once, in order",
)
@pytest.mark.parametrize("cut_after", [300, 420, 550, 700])
def test_a_stream_that_is_cut_tells_every_event_once(through, ours, sessions, cut_after):
    client, cut = through(*[cut_after] * 5, only=STREAM)
    job = client.jobs.get(ours.jobs.create(SMALL).id)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(live, sessions, UUID(job.id))
        heard = list(job.events())
        done.result()
    assert heard == job.past_events()
    assert [event["number"] for event in heard] == list(range(1, 8))
    assert len(cut) >= 2


def test_a_reader_that_does_not_come_back_misses_events(url, client, ours, sessions):
    """The control: the relay does cut in the midst of events."""
    job = ours.jobs.create(SMALL)
    live(sessions, UUID(job.id))
    with relaying(url, 550, only=STREAM) as (relayed, cut), httpx.Client(headers=client.headers) as reader:
        heard = []
        with (
            pytest.raises(httpx.RemoteProtocolError),
            reader.stream(
                "GET", f"{relayed}/v1/jobs/{job.id}/events", headers={"Accept": STREAM.decode()}
            ) as answer,
        ):
            heard.extend(answer.iter_lines())
    assert len(cut) == 1
    assert 0 < sum(line.startswith("id: ") for line in heard) < 7


@pytest.mark.parametrize("cut_after", [0, 200, 2000])
def test_a_result_that_is_cut_off_is_fetched_anew(through, ours, sessions, tmp_path, cut_after):
    job = ours.jobs.create(SMALL)
    work(sessions, job.document)
    wanted = ours.jobs.get(job.id).download(tmp_path / "wanted.npz", format="npz").read_bytes()
    assert len(wanted) > 2000
    client, cut = through(*[cut_after] * 2, only=b"/hyperparameters")
    job = client.jobs.get(job.id)
    assert job.download(tmp_path / "found.npz", format="npz").read_bytes() == wanted
    assert len(cut) == 2
    client, cut = through(*[cut_after] * 2, only=b"/hyperparameters")
    job = client.jobs.get(job.id)
    assert job.hyperparameters().document == job.hyperparameters().document
    assert len(cut) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.npz", "wanted.npz"]


def test_a_download_that_is_always_cut_off_leaves_what_was_there(through, ours, sessions, tmp_path):
    job = ours.jobs.create(SMALL)
    work(sessions, job.document)
    (tmp_path / "result.npz").write_bytes(b"before")
    client, _ = through(*[2000] * 4, only=b"/hyperparameters")
    with pytest.raises(ServerUnreachable):
        client.jobs.get(job.id).download(tmp_path / "result.npz", format="npz")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_an_upload_whose_answers_are_lost_is_kept_once(through, ours):
    client, cut = through(0, 30, only=POST)
    images = [[[pixel] * 5 for pixel in range(5)]] * 400
    sent = client.datasets.upload({"images": images, "labels": [0, 1] * 200}, "small")
    assert len(cut) == 2
    assert [one["id"] for one in ours.datasets.list()] == [sent["id"]]
    assert sent["inputs"]["shape"] == [400, 5, 5]
