"""How often one may ask, with a broker, without one, and with one that is frozen."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import redis

from api import rates
from api.errors import RateLimited
from api.rates import Rates, Strangers
from core.config import Settings
from core.store import keys
from retrograd.local import servers
from tests.api.problems import assert_problem
from tests.builders import document
from tests.conftest import serving


def limits(settings, **changes):
    return settings.model_copy(update={f"rate_limit_{policy}": text for policy, text in changes.items()})


def admitted(counter, times, policy="reads", who="a"):
    """How many of so many requests are let through."""
    found = 0
    for _ in range(times):
        try:
            counter.count(policy, who)
        except RateLimited:
            continue
        found += 1
    return found


@pytest.fixture
def broker(tmp_path):
    """One that a test may stop and freeze."""
    with servers.valkey(tmp_path / "valkey") as server:
        yield server


@pytest.fixture
def few(broker):
    return Settings(
        broker_url=broker.url, rate_limit_reads="5 per 60 seconds", rate_limit_writes="3 per 60 seconds"
    )


def test_beyond_the_limit_requests_are_refused_with_the_time_to_wait(settings):
    with serving(limits(settings, reads="3 per 60 seconds", writes="2 per 60 seconds")) as client:
        answers = [client.get("/v1/jobs") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert_problem(answers[-1], 429, "rate_limited")
        wait = int(answers[-1].headers["Retry-After"])
        assert 50 < wait <= 60
        assert answers[-1].headers["RateLimit-Policy"] == '"reads";q=3;w=60'
        assert answers[-1].headers["RateLimit"] == f'"reads";r=0;t={wait}'
        assert client.post("/v1/jobs", json=document()).status_code == 202  # writes are counted apart
        assert client.post("/v1/jobs", json=document()).status_code == 202
        assert_problem(client.post("/v1/jobs", json=document()), 429, "rate_limited")
        assert client.get("/healthz").status_code == 200
        other = client.get("/v1/presets", headers={"Authorization": "Bearer " + keys.new_key()})
        assert other.status_code == 401  # a key's limit is its own


def test_processes_count_together_and_keys_apart(few):
    first, second = Rates(few), Rates(few)
    assert admitted(first, 3) + admitted(second, 9) == 5
    assert admitted(second, 9, who="b") == 5
    assert admitted(first, 9, policy="writes") == 3


def test_of_many_at_once_exactly_as_many_are_let_through_as_may_be(few):
    counter = Rates(few)
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: admitted(counter, 5), range(8))) == 5


def test_what_is_refused_does_not_count(few):
    short = few.model_copy(update={"rate_limit_reads": "2 per 1 second"})
    counter, found, began = Rates(short), 0, time.monotonic()
    while time.monotonic() - began < 2.5:
        found += admitted(counter, 1)
    assert 4 <= found <= 8  # a client that does not heed it gets its rate all the same


def test_counts_lie_apart_from_the_queues_and_are_forgotten(few, broker):
    admitted(Rates(few), 2)
    with redis.Redis.from_url(broker.url) as client:
        names = client.keys("*")
        assert names
        assert all(name.startswith(rates._PREFIX.encode()) for name in names)
        assert all(0 < client.ttl(name) <= 60 for name in names)


def test_an_empty_limit_is_none(few):
    assert admitted(Rates(few.model_copy(update={"rate_limit_reads": ""})), 100) == 100


@pytest.mark.parametrize("text", ["many", "5", "5 per fortnight"])
def test_a_limit_that_cannot_be_read_is_named_at_the_start(few, text):
    with pytest.raises(ValueError, match=f"RETROGRAD_RATE_LIMIT_READS is '{text}'"):
        Rates(few.model_copy(update={"rate_limit_reads": text}))


@pytest.mark.parametrize("url", ["", "nonsense", "redis://127.0.0.1:{port}/0"])
def test_without_a_broker_a_process_counts_by_itself(few, url):
    alone = few.model_copy(
        update={"broker_url": Settings(broker_url=url.format(port=servers.free_port())).broker_url}
    )
    began = time.monotonic()
    assert admitted(Rates(alone), 9) == 5
    assert time.monotonic() - began < 1


def test_a_broker_that_comes_back_is_asked_again(few, broker, monkeypatch):
    counter = Rates(few)
    assert admitted(counter, 2) == 2
    broker.stop()
    assert admitted(counter, 9) == 5  # by itself, from the start
    monkeypatch.setattr(rates, "_APART_SECONDS", 0.0)
    assert admitted(counter, 1) == 0
    counter._apart_until = time.monotonic()
    broker.start()  # empty
    assert admitted(counter, 9) == 5
    assert admitted(Rates(few), 9) == 0  # counted together again


@pytest.fixture
def frozen(few, broker, monkeypatch):
    """A counter whose broker answers no more, and the seconds that each try to ask it took."""
    counter = Rates(few.model_copy(update={"rate_limit_reads": "1000 per 60 seconds"}))
    counter.count("reads", "a")
    ask, tries = counter._together.hit, []

    def timed(*arguments):
        began = time.monotonic()
        try:
            return ask(*arguments)
        finally:
            tries.append(time.monotonic() - began)

    monkeypatch.setattr(counter._together, "hit", timed)
    os.kill(broker.pid, signal.SIGSTOP)
    yield counter, tries
    os.kill(broker.pid, signal.SIGCONT)


def test_a_frozen_broker_costs_one_moment_and_then_nothing(frozen):
    counter, tries = frozen
    began = time.monotonic()
    assert admitted(counter, 50) == 50
    assert time.monotonic() - began < rates._APART_SECONDS
    assert len(tries) == 1
    assert tries[0] < rates._BROKER_SECONDS + 0.2  # and what a busy machine adds


def test_after_an_outage_one_request_tries_and_the_others_do_not_wait(frozen):
    counter, tries = frozen
    counter.count("reads", "a")
    counter._apart_until = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: admitted(counter, 1), range(8))) == 8
    assert len(tries) == 2


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_without_its_broker_a_post_is_answered_as_quickly(settings, broker, fault):
    with serving(limits(settings.model_copy(update={"broker_url": Settings(broker_url=broker.url).broker_url}),
                        writes="1000 per 60 seconds")) as client:  # fmt: skip

        def timed():
            answer = client.post("/v1/jobs", json=document())
            assert answer.status_code == 202
            return answer.elapsed.total_seconds()

        usual = sorted(timed() for _ in range(10))[-1]
        os.kill(broker.pid, signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
        try:
            waits = [timed() for _ in range(20)]
        finally:
            os.kill(broker.pid, signal.SIGCONT) if fault == "frozen" else broker.stop()
        assert waits[0] < usual + 0.5
        assert sorted(waits)[10] <= 2 * usual


# Without a key


def test_strangers_are_refused_before_the_database_and_good_keys_behind_them_are_not(settings):
    with serving(limits(settings, strangers="3 per 60 seconds")) as client:
        assert client.get("/v1/jobs").status_code == 200  # a key that is known from now on
        bad = {"Authorization": f"Bearer {keys.new_key()}"}
        answers = [client.get("/v1/jobs", headers=bad) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [401, 401, 401, 429, 429]
        assert int(answers[-1].headers["Retry-After"]) > 0
        bare = httpx.get(client.base_url.join("/v1/jobs"))
        assert_problem(bare, 429, "rate_limited")
        assert client.get("/v1/jobs").status_code == 200


def test_a_revoked_key_is_a_strangers(settings):
    with serving(limits(settings, strangers="3 per 60 seconds")) as client:
        made = client.post("/v1/keys", json={"name": "x", "scopes": ["read"]}).json()
        revoked = {"Authorization": f"Bearer {made['key']}"}
        assert client.get("/v1/jobs", headers=revoked).status_code == 200
        assert client.delete(f"/v1/keys/{made['id']}").status_code == 204
        answers = [client.get("/v1/jobs", headers=revoked).status_code for _ in range(5)]
        assert answers == [401, 401, 401, 429, 429]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8:1:2:3::4", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("", "", True),
    ],
)
def test_an_address_is_what_its_owner_cannot_choose(first, second, same):
    strangers = Strangers(Settings(rate_limit_strangers="1 per 60 seconds"))
    strangers.count(first, "")
    if same:
        with pytest.raises(RateLimited):
            strangers.admit(second, "")
    else:
        strangers.admit(second, "")
