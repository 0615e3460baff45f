from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from api.bootstrap import store_key
from core.store import keys
from core.store.errors import InvalidKey
from core.store.models import ApiKey, Project


def test_a_key_speaks_for_its_project_only(sessions):
    ours, theirs = keys.new_key(), keys.new_key()
    with sessions.begin() as session:
        first, second = keys.ensure_project(session, "first"), keys.ensure_project(session, "second")
        keys.add(session, first, ours)
        keys.add(session, second, theirs)
        assert keys.caller(session, ours).project_id == first
        assert keys.caller(session, theirs).project_id == second
        same_prefix = ours[:9] + theirs[9:]
        for wrong in (
            keys.new_key(),
            same_prefix,
            ours[:-1],
            ours + "x",
            ours.upper(),
            "",
            "rg_",
            "x" * 5000,
            "rg_\0",
        ):
            assert keys.caller(session, wrong) is None


def test_only_a_digest_is_kept(sessions, project):
    key = keys.new_key()
    with sessions.begin() as session:
        keys.add(session, project, key)
        row = session.scalars(select(ApiKey)).one()
        assert len(row.sha256) == 32
        assert row.prefix == key[:9]
        assert key not in str(vars(row))


def test_what_is_no_key_is_refused(sessions, project):
    with sessions.begin() as session, pytest.raises(InvalidKey, match="rg_"):
        keys.add(session, project, "hunter2")


def test_bootstrap_at_once_from_many_processes_stores_one_key(sessions, settings):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: store_key(sessions, settings), range(16)))
    with sessions.begin() as session:
        assert session.scalar(select(func.count()).select_from(ApiKey)) == 1
        assert session.scalar(select(func.count()).select_from(Project)) == 1
        key = settings.bootstrap_api_key.get_secret_value()
        assert keys.caller(session, key).project_id == keys.ensure_project(session, "default")
