"""Real servers for every test that asks: one Postgres and one broker a session, one database a test."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from contextlib import ExitStack, contextmanager

import httpx
import psycopg
import pytest
import redis
import uvicorn
from typer.testing import CliRunner

from core.config import Settings
from core.store import keys, migrate
from core.store.session import close_store, open_store
from retrograd.local import servers

pytest_plugins = [
    "tests.compilation_cache",
    "tests.slow",
    "tests.faults.report",  # faults are tested in many folders, and reported together
]


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    with servers.postgres(tmp_path_factory.mktemp("servers") / "postgres") as server:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):  # no test cuts the power
            execute(server, f"ALTER SYSTEM SET {setting} = off")
        execute(server, "SELECT pg_reload_conf()")
        yield server


@pytest.fixture(scope="session")
def valkey(tmp_path_factory):
    with servers.valkey(tmp_path_factory.mktemp("servers") / "valkey") as server:
        yield server


def execute(postgres, statement):
    url = postgres.url("postgres").replace("+psycopg", "", 1)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


@contextmanager
def database(postgres, template="template1"):
    name = f"test_{uuid.uuid4().hex}"
    execute(postgres, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield postgres.url(name)
    execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def migrated(postgres):
    """Name of a database at head that is only ever copied."""
    execute(postgres, "CREATE DATABASE migrated")
    migrate.upgrade(postgres.url("migrated"))
    return "migrated"


@pytest.fixture
def empty_database(postgres):
    with database(postgres) as url:
        yield url


HASTY = {
    "lease_seconds": 6.0,  # importing JAX may hold up the heartbeat for seconds
    "heartbeat_seconds": 0.5,
    "janitor_seconds": 0.3,
    "republish_seconds": 1.0,
}
"""Settings with which real workers and janitors notice soon what happens."""


@contextmanager
def fresh_settings(postgres, migrated, valkey):
    """Settings of a service with a database of its own and an empty broker."""
    with redis.Redis.from_url(valkey.url) as broker:
        broker.flushall()
    unlimited = {f"rate_limit_{policy}": "" for policy in ("reads", "writes", "strangers")}  # tests hurry
    with database(postgres, migrated) as url, tempfile.TemporaryDirectory() as storage:
        yield Settings(
            database_url=url,
            broker_url=valkey.url,
            bootstrap_api_key=keys.new_key(),
            storage_url=storage,
            **unlimited,
        )


@pytest.fixture
def settings(postgres, migrated, valkey):
    with fresh_settings(postgres, migrated, valkey) as settings:
        yield settings


@pytest.fixture
def sessions(settings):
    opened = open_store(settings.database_url)
    yield opened
    close_store(opened)


@pytest.fixture
def project(sessions):
    with sessions.begin() as session:
        return keys.ensure_project(session, "default")


@contextmanager
def serving(settings, key=None):
    """The API on a port of its own; yields a client that holds the key, by default the bootstrap key."""
    from api.app import create_app

    # names TCP, or asyncio leaves Nagle's algorithm on and every answer takes 40 ms
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()  # clients may connect before the server is up
    server = uvicorn.Server(uvicorn.Config(create_app(settings), log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    key = key or settings.bootstrap_api_key.get_secret_value()
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{listener.getsockname()[1]}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=30,
            verify=False,  # no HTTPS here, and certificates take 50 ms to read
        ) as client:
            client.get("/healthz").raise_for_status()
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def client(settings):
    with serving(settings) as client:
        yield client


@pytest.fixture
def stranger(settings, sessions, client):
    """A client of another project."""
    key = keys.new_key()
    with sessions.begin() as session:
        keys.add(session, keys.ensure_project(session, "other"), key)
    with httpx.Client(base_url=client.base_url, headers={"Authorization": f"Bearer {key}"}) as stranger:
        yield stranger


@pytest.fixture
def url(client):
    return str(client.base_url)


@pytest.fixture
def key(settings):
    return settings.bootstrap_api_key.get_secret_value()


@pytest.fixture
def command(url, key, monkeypatch, tmp_path):
    """The command `retrograd`, at the API of `client`."""
    from retrograd.cli import app

    monkeypatch.setenv("RETROGRAD_URL", url)
    monkeypatch.setenv("RETROGRAD_API_KEY", key)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, arguments)


@contextmanager
def running(module, settings, log, *arguments, **environ):
    """A process `python -m module` with these settings; ended by SIGTERM."""
    environ = {
        **os.environ,
        "RETROGRAD_DATABASE_URL": settings.database_url,
        "RETROGRAD_BROKER_URL": settings.broker_url.get_secret_value(),
        "RETROGRAD_STORAGE_URL": settings.storage_url,
        "RETROGRAD_LEASE_SECONDS": str(settings.lease_seconds),
        "RETROGRAD_HEARTBEAT_SECONDS": str(settings.heartbeat_seconds),
        "RETROGRAD_JANITOR_SECONDS": str(settings.janitor_seconds),
        "RETROGRAD_REPUBLISH_SECONDS": str(settings.republish_seconds),
        "TMPDIR": str(log.parent),  # for beats of health
        **environ,
    }
    with ExitStack() as stack:
        output = stack.enter_context(log.open("ab"))
        process = stack.enter_context(
            subprocess.Popen([sys.executable, "-m", module, *arguments], env=environ, stdout=output, stderr=output)
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
