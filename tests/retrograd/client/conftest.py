from types import SimpleNamespace

import pytest

from retrograd.client import Client, carriers
from tests.api.test_jobs import work
from tests.builders import SMALL
from tests.retrograd.client.both import KINDS, connecting


@pytest.fixture(params=KINDS)
def connect(request):
    """Makes clients of one kind: `connect(url, key)`."""
    with connecting(request.param) as connect:
        yield connect


@pytest.fixture
def ours(connect, url, key):
    """A client of the API, of one kind."""
    return connect(url, key)


@pytest.fixture
def waiting(url, key):
    """A client that waits, for what is the same with both."""
    with Client(url, key) as client:
        yield client


@pytest.fixture
def learned(waiting, sessions):
    """A job that has succeeded."""
    job = waiting.jobs.create(SMALL)
    work(sessions, job.document)
    return job.refresh()


@pytest.fixture
def pauses(monkeypatch):
    """The seconds that clients would have paused for."""
    pauses = []

    async def pause(seconds):
        pauses.append(seconds)

    monkeypatch.setattr(carriers, "time", SimpleNamespace(sleep=pauses.append))
    monkeypatch.setattr(carriers, "asyncio", SimpleNamespace(sleep=pause))
    return pauses


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch, tmp_path):
    for name in ("RETROGRAD_URL", "RETROGRAD_API_KEY", "RETROGRAD_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
