import pytest

from core.store import keys
from tests.store.projects import do
from worker.janitor import Janitor


@pytest.fixture
def other(sessions):
    return do(sessions, keys.ensure_project, "other")


@pytest.fixture
def janitor(sessions, settings):
    return Janitor(sessions, settings.model_copy(update={"quota_running_jobs": 1, "republish_seconds": 0.001}))
