import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import text

from core.store import migrate
from core.store.models import Base
from core.store.session import close_store, open_store

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(empty_database):
    def run(*arguments, cwd=ROOT):
        environ = {**os.environ, "RETROGRAD_DATABASE_URL": empty_database, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-m", *arguments], cwd=cwd, env=environ, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture
def query(empty_database):
    sessions = open_store(empty_database)

    def query(statement):
        with sessions() as session:
            return set(session.scalars(text(statement)))

    yield query
    close_store(sessions)


TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"


def test_alembic_goes_up_finds_nothing_missing_and_comes_down(run, query):
    for arguments in (("upgrade", "head"), ("check",)):
        done = run("alembic", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    assert query(TABLES) == {*Base.metadata.tables, "alembic_version"}
    done = run("alembic", "downgrade", "base")
    assert done.returncode == 0, done.stderr
    assert query(TABLES) == {"alembic_version"}


def test_the_module_migrates_from_any_folder(run, query, tmp_path):
    assert run("core.store.migrate", cwd=tmp_path).returncode == 0
    assert query("SELECT version_num FROM alembic_version") == {migrate.head()}


def test_without_a_database_it_says_what_to_set(tmp_path):
    environ = {key: value for key, value in os.environ.items() if not key.startswith("RETROGRAD_")}
    done = subprocess.run(
        [sys.executable, "-m", "core.store.migrate"], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "RETROGRAD_DATABASE_URL" in done.stderr


def test_several_may_migrate_at_once(empty_database, query):
    with ThreadPoolExecutor(4) as pool:  # processes would do the same, more slowly
        done = [pool.submit(run_once, empty_database) for _ in range(4)]
        assert [one.result() for one in done] == [0] * 4
    assert query("SELECT version_num FROM alembic_version") == {migrate.head()}


def run_once(url):
    environ = {**os.environ, "RETROGRAD_DATABASE_URL": url}
    return subprocess.run([sys.executable, "-m", "core.store.migrate"], env=environ, check=False).returncode


def test_every_constraint_of_the_models_is_in_the_migrations_by_name(empty_database, query):
    migrate.upgrade(empty_database)
    names = query(
        "SELECT conname FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'"
    )
    declared = {
        str(constraint.name) for table in Base.metadata.tables.values() for constraint in table.constraints
    }
    assert len(declared) > 20
    for name in declared:  # the naming rule is applied as the constraint is compiled
        assert any(found == name or found.endswith(f"_{name}") for found in names), name


def test_offline_mode_writes_sql(capsys):
    configuration = migrate.configuration("postgresql+psycopg://")
    command.upgrade(configuration, "head", sql=True)
    assert "CREATE TABLE jobs" in capsys.readouterr().out
