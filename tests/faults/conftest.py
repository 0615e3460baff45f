"""Servers of their own, as safe as in production: these tests do cut the power."""

import pytest
import redis

from core.store import migrate
from core.store.session import close_store, open_store
from retrograd.local import servers
from tests.conftest import HASTY, execute, fresh_settings
from tests.faults import history
from tests.faults.service import Caller, Service


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    with servers.postgres(tmp_path_factory.mktemp("servers") / "postgres") as server:
        yield server


@pytest.fixture(scope="session")
def migrated(postgres):
    execute(postgres, "CREATE DATABASE migrated")
    migrate.upgrade(postgres.url("migrated"))
    return "migrated"


@pytest.fixture(scope="module")
def service_settings(postgres, migrated, valkey):
    with fresh_settings(postgres, migrated, valkey) as settings:
        yield settings.model_copy(update=HASTY)


@pytest.fixture(scope="module")
def service(service_settings, tmp_path_factory):
    """API and janitor of one service for all tests of a module; workers are theirs to start."""
    with Service(service_settings, tmp_path_factory.mktemp("service")) as service:
        service.start("api")
        service.start("janitor")
        yield service


@pytest.fixture(scope="module")
def store(service_settings):
    opened = open_store(service_settings.database_url)
    yield opened
    close_store(opened)


@pytest.fixture
def caller(service, store):
    """A patient client; at the end every history in the database must be sound, and all it was promised kept."""
    with Caller(service.url, service.settings.bootstrap_api_key.get_secret_value()) as caller:
        yield caller
        history.check(store, accepted=caller.accepted, seen=caller.seen, seconds=10)


@pytest.fixture
def broker(valkey):
    with redis.Redis.from_url(valkey.url) as client:
        yield client
