"""Deliveries from the end of a job to a real receiver."""

import json
import statistics
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from standardwebhooks import Webhook

from core.receivers import any_address, is_public, new_secret
from core.store import deliveries, jobs, webhooks
from tests.builders import create, eventually
from tests.conftest import running
from tests.store.test_leases import write
from tests.worker import sink as answers
from tests.worker.sink import Sink, status
from worker.sender import Answer, Sender
from worker.webhooks import AT_ONCE_OF_ONE, AT_ONCE_TO_ONE, ATTEMPTS, Deliverer, wait_after

SECRET = new_secret()
HOUR = 3600.0


@pytest.fixture
def deliverer(sessions):
    return Deliverer(sessions, Sender(any_address).send)


@pytest.fixture
def end(sessions, project):
    """Ends a job whose webhook this is."""

    def end(url):
        job_id = create(sessions, project)
        write(sessions, webhooks.attach, job_id, url, SECRET)
        write(sessions, jobs.cancel, project, job_id)
        return job_id

    return end


@pytest.fixture
def told(sessions):
    def told(job_id):
        with sessions() as session:
            (found,) = deliveries.newest(session, job_id, 100)
            return found

    return told


@pytest.fixture
def fall_due(sessions):
    def fall_due():
        write(sessions, lambda session: session.execute(text("UPDATE deliveries SET next_attempt_at = now()")))

    return fall_due


def deliver(deliverer):
    deliverer.deliver()
    assert deliverer.drain(20)


def ids(sink):
    return [received.headers["webhook-id"] for received in sink.received]


def test_an_end_is_delivered_once_and_verified_by_the_library(deliverer, end, told):
    with Sink().running() as sink:
        job_id = end(sink.url)
        deliver(deliverer)
        deliver(deliverer)
    (received,) = sink.received
    message = Webhook(SECRET).verify(received.body, received.headers)
    assert message["type"] == "job.cancelled"
    assert message["data"]["job"]["id"] == str(job_id)
    settled = told(job_id)
    assert received.headers["webhook-id"] == str(settled.id)
    assert received.body.decode() == settled.payload
    assert (settled.attempt, settled.next_attempt_at, settled.last_error) == (1, None, None)
    assert settled.delivered_at is not None


@pytest.mark.fault(
    injected="a webhook sink that fails", checked="the same message is sent again until it is received"
)
def test_one_that_fails_is_sent_again_as_it_was(deliverer, end, told, fall_due):
    with Sink(status(500), answers.raw(b"nonsense\r\n\r\n"), status(201)).running() as sink:
        job_id = end(sink.url)
        for error in ("answered 500", "the answer was not HTTP, or broke off"):
            deliver(deliverer)
            assert told(job_id).last_error == error
            assert told(job_id).delivered_at is None
            deliver(deliverer)  # not due yet
            fall_due()
        deliver(deliverer)
    assert len(set(ids(sink))) == 1
    assert len({received.body for received in sink.received}) == 1
    assert (told(job_id).attempt, told(job_id).last_error) == (3, None)
    for received in sink.received:
        Webhook(SECRET).verify(received.body, received.headers)


def test_one_that_never_answers_well_is_given_up_after_the_last_attempt(deliverer, end, told, fall_due):
    with Sink(status(500)).running() as sink:
        job_id = end(sink.url)
        for _ in range(ATTEMPTS):
            assert told(job_id).next_attempt_at is not None
            fall_due()
            deliver(deliverer)
    given_up = told(job_id)
    assert (given_up.attempt, given_up.next_attempt_at) == (ATTEMPTS, None)
    assert (given_up.delivered_at, given_up.last_error) == (None, "answered 500")
    assert len(sink.received) == ATTEMPTS


def test_one_that_is_gone_is_not_asked_again(deliverer, sessions, end, told):
    with Sink(status(410)).running() as sink:
        job_id = end(sink.url)
        deliver(deliverer)
    assert told(job_id).last_error == "answered 410: the webhook is disabled"
    assert told(job_id).next_attempt_at is None
    with sessions() as session:
        assert webhooks.of(session, job_id).disabled_at is not None


@pytest.mark.parametrize("code", [429, 503])
def test_one_that_is_busy_is_left_alone_for_as_long_as_it_asks(deliverer, sessions, end, told, code):
    with Sink(status(code, retry_after="7200")).running() as sink:
        job_id = end(sink.url)
        deliver(deliverer)
    assert seconds_until(sessions, told(job_id)) == pytest.approx(7200, abs=30)


def test_others_are_not_asked_when_they_want_to_be_asked(deliverer, sessions, end, told):
    with Sink(status(500, retry_after="7200")).running() as sink:
        job_id = end(sink.url)
        deliver(deliverer)
    assert seconds_until(sessions, told(job_id)) < 60


def seconds_until(sessions, delivery):
    with sessions() as session:
        return session.scalar(
            text("SELECT extract(epoch FROM CAST(:at AS timestamptz) - clock_timestamp())"),
            {"at": delivery.next_attempt_at},
        )


@pytest.mark.fault(
    injected="a webhook sink that redirects to a private address", checked="the redirect is not followed"
)
def test_a_redirect_to_a_private_address_is_a_failure(deliverer, end, told):
    with Sink().running() as inside, Sink(status(302, location=inside.url)).running() as sink:
        job_id = end(sink.url)
        deliver(deliverer)
    assert told(job_id).last_error == "answered 302; redirects are not followed"
    assert told(job_id).next_attempt_at is not None
    assert inside.received == []


@pytest.mark.fault(injected="a webhook at a private address", checked="nothing connects to it")
def test_a_private_address_is_a_failure(sessions, end, told):
    with Sink().running() as sink:
        job_id = end(sink.url)
        deliver(Deliverer(sessions, Sender(is_public).send))
    assert sink.received == []
    assert told(job_id).last_error == "its name does not lead to public addresses"


@pytest.mark.fault(
    injected="a crash between sending to a webhook and marking that", checked="sent again under the same id"
)
def test_a_crash_between_sending_and_marking_sends_it_again_under_the_same_id(
    deliverer, sessions, end, told, fall_due
):
    with Sink().running() as sink:
        job_id = end(sink.url)
        with sessions.begin() as session:
            due = deliveries.claim(session, 60)
        Sender(any_address).send(due)  # and nothing more
        deliver(deliverer)  # still taken
        assert len(sink.received) == 1
        fall_due()  # its time is over
        deliver(deliverer)
        deliver(deliverer)
    assert ids(sink) == [str(due.id)] * 2
    assert sink.received[0].body == sink.received[1].body
    assert told(job_id).attempt == 2


@pytest.mark.fault(injected="Postgres away as a delivery is marked", checked="sent again under the same id")
def test_a_database_that_is_away_at_the_mark_sends_it_again(
    deliverer, sessions, end, told, fall_due, monkeypatch, caplog
):
    def away(*_):
        raise OperationalError("away", None, Exception("away"))

    with Sink().running() as sink:
        job_id = end(sink.url)
        with monkeypatch.context() as patch:
            patch.setattr(deliveries, "delivered", away)
            deliver(deliverer)
        assert "could not be kept; it is sent again" in caplog.text
        assert told(job_id).delivered_at is None
        fall_due()
        deliver(deliverer)
    assert len(set(ids(sink))) == 1
    assert len(sink.received) == 2
    assert told(job_id).delivered_at is not None


def test_an_error_of_ours_is_a_failure_like_others(sessions, end, told, caplog):
    def broken(due):
        raise ZeroDivisionError

    job_id = end("https://example.com/")
    deliver(Deliverer(sessions, broken))
    assert told(job_id).last_error == "an error of ours"
    assert "ZeroDivisionError" in caplog.text


def test_two_deliverers_send_each_once(sessions, end):
    with Sink().running() as sink:
        ended = [end(sink.url) for _ in range(30)]
        both = [Deliverer(sessions, Sender(any_address).send) for _ in range(2)]
        threads = [threading.Thread(target=one.run, args=(0.05, lambda duty: duty())) for one in both]
        for thread in threads:
            thread.start()
        eventually(lambda: len(sink.received) >= 30)
        for one in both:
            one.stop()
        for thread in threads:
            thread.join()
    told = [json.loads(received.body)["data"]["job"]["id"] for received in sink.received]
    assert sorted(told) == sorted(map(str, ended))


@pytest.mark.fault(injected="a webhook sink that hangs", checked="the others are told")
def test_one_that_hangs_holds_up_no_other(deliverer, end, told):
    with Sink(answers.hang).running() as hanging, Sink().running() as sink:
        for _ in range(AT_ONCE_OF_ONE + 2):
            end(hanging.url)
        good = end(sink.url)
        began = time.monotonic()
        deliverer.deliver()
        eventually(lambda: told(good).delivered_at)
        assert time.monotonic() - began < 5
        assert len(hanging.received) <= AT_ONCE_TO_ONE
        hanging.released.set()
        assert deliverer.drain(20)


def test_no_more_of_a_project_than_so_many_are_under_way(sessions, end):
    release, started = threading.Event(), []

    def send(due):
        started.append(due.authority)
        release.wait(20)
        return Answer(200, None)

    deliverer = Deliverer(sessions, send)
    for number in range(AT_ONCE_OF_ONE + 3):
        end(f"https://{number}.example/")
    deliverer.deliver()
    eventually(lambda: len(started) == AT_ONCE_OF_ONE)
    deliverer.deliver()
    assert len(started) == AT_ONCE_OF_ONE
    assert not deliverer.drain(0)
    release.set()
    assert deliverer.drain(20)
    deliver(deliverer)
    assert len(set(started)) == AT_ONCE_OF_ONE + 3


def test_a_place_that_becomes_free_is_taken_at_once(deliverer, end):
    with Sink().running() as sink:
        for _ in range(10):
            end(sink.url)
        thread = threading.Thread(target=deliverer.run, args=(30.0, lambda duty: duty()))
        thread.start()
        eventually(lambda: len(sink.received) == 10, seconds=10)
        deliverer.stop()
        thread.join(5)
        assert not thread.is_alive()


def test_as_part_of_the_janitor_it_delivers_and_ends_with_it_though_a_receiver_hangs(
    settings, end, told, tmp_path
):
    log = tmp_path / "log"
    with Sink().running() as sink, Sink(answers.hang).running() as hanging:
        stuck = end(hanging.url)
        good = end(sink.url)
        with running("worker.janitor", settings, log, RETROGRAD_WEBHOOK_ALLOW_PRIVATE="true") as process:
            eventually(lambda: told(good).delivered_at)
            eventually(lambda: hanging.received)
            process.terminate()
            assert process.wait(8) == 0
    assert told(stuck).next_attempt_at is not None  # comes up again
    assert SECRET not in log.read_text()


@pytest.mark.slow
def test_the_janitor_sends_to_public_addresses_unless_told_otherwise(settings, end, told, tmp_path):
    with Sink().running() as sink, running("worker.janitor", settings, tmp_path / "log"):
        job_id = end(sink.url)
        assert "public" in eventually(lambda: told(job_id).last_error)
    assert sink.received == []


def test_attempts_are_spread_over_about_a_day():
    def day(draw):
        return sum(wait_after(attempt, draw) for attempt in range(1, ATTEMPTS))

    assert [round(wait_after(attempt, 0.5)) for attempt in range(1, ATTEMPTS)] == [
        20, 60, 180, 540, 1620, 4860, 14580, 28800, 28800,
    ]  # fmt: skip
    assert day(0.5) == pytest.approx(22 * HOUR, rel=0.01)
    assert 17 * HOUR < day(0.0) < day(1.0) < 27 * HOUR
    assert wait_after(ATTEMPTS, 0.5) is wait_after(ATTEMPTS + 5, 0.5, 60.0) is None


@given(st.integers(1, ATTEMPTS - 1), st.floats(0, 1), st.none() | st.floats(0, 1e12))
def test_a_wait_is_within_a_fifth_of_its_middle_unless_more_is_asked(attempt, draw, asked):
    middle = wait_after(attempt, 0.5)
    wait = wait_after(attempt, draw, asked)
    least, most = middle * 0.8, middle * 1.2
    assert least - 1e-6 <= wait_after(attempt, draw) <= most + 1e-6
    assert wait == max(wait_after(attempt, draw), min(asked or 0, 8 * HOUR))


def test_jitter_spreads_those_that_failed_together():
    waits = [wait_after(5, draw / 999) for draw in range(1000)]
    assert statistics.pstdev(waits) > 0.1 * wait_after(5, 0.5)
