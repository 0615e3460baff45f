"""What a database holds survives every migration, up and down, but for the columns that come and go."""

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory

from core.store import migrate
from tests.migrations import rows

_SCRIPTS = ScriptDirectory.from_config(migrate.configuration())
REVISIONS = [script.revision for script in _SCRIPTS.walk_revisions()][::-1]


@pytest.fixture
def connection(empty_database):
    with psycopg.connect(empty_database.replace("+psycopg", "", 1), autocommit=True) as connection:
        yield connection


@pytest.fixture
def configuration(empty_database):
    return migrate.configuration(empty_database)


@pytest.mark.parametrize("start", REVISIONS)
def test_rows_survive_the_way_up_and_down(connection, configuration, start):
    shapes = {}
    for revision in REVISIONS:
        kept = rows.contents(connection, shapes[start]) if revision > start else None
        command.upgrade(configuration, revision)
        shapes[revision] = rows.shape(connection)
        if kept is not None:
            assert rows.contents(connection, shapes[start]) == kept, f"the way up to {revision}"
        if revision == start:
            rows.fill(connection, 1)
            assert all(rows.contents(connection, shapes[start]).values()), "every table has rows"
    rows.fill(connection, 2)
    for revision in REVISIONS[-2::-1]:
        kept = rows.contents(connection, shapes[revision])
        command.downgrade(configuration, revision)
        assert rows.shape(connection) == shapes[revision]
        assert rows.contents(connection, shapes[revision]) == kept, f"the way down to {revision}"
    kept = rows.contents(connection, shapes[REVISIONS[0]])
    command.upgrade(configuration, "head")
    command.check(configuration)
    assert rows.contents(connection, shapes[REVISIONS[0]]) == kept


def test_what_was_paused_is_cancelled_on_the_way_down_and_keeps_its_checkpoint(connection, configuration):
    command.upgrade(configuration, "0004")
    rows.fill(connection, 1)
    paused = "SELECT id FROM jobs WHERE state = 'paused'"
    (job_id,) = connection.execute(paused).fetchone()
    command.downgrade(configuration, "0003")
    row = "SELECT state, cancel_requested, ended_at IS NOT NULL, error, meta_iteration FROM jobs WHERE id = %s"
    assert connection.execute(row, [job_id]).fetchone() == ("cancelled", True, True, None, 2)
    checkpoint = "SELECT iteration FROM checkpoints WHERE job_id = %s"
    assert connection.execute(checkpoint, [job_id]).fetchone() == (2,)


def test_jobs_about_programs_end_on_the_way_down_and_programs_are_counted_no_more(connection, configuration):
    command.upgrade(configuration, "0005")
    rows.fill(connection, 1)
    connection.execute("UPDATE blobs SET size = 77 WHERE size = 0")
    connection.execute("DELETE FROM programs")
    connection.execute("UPDATE tallies SET stored_bytes = 1000")
    fields = "id, project_id, name, sha256, summary"
    connection.execute(
        f"INSERT INTO programs ({fields}) SELECT 'pr_2', project_id, name, b.sha256, summary FROM datasets, blobs b "
        "WHERE size = 77"
    )
    assert connection.execute("SELECT sum(stored_bytes) FROM tallies").fetchone() == (1077,)
    connection.execute(
        "UPDATE jobs SET spec = jsonb_set(spec, '{problem}', '{\"kind\": \"program\"}'), program_id = 'pr_2'"
    )
    before = dict(connection.execute("SELECT id, state FROM jobs").fetchall())
    command.downgrade(configuration, "0004")
    after = connection.execute("SELECT id, state, ended_at IS NOT NULL, lease_expires_at, last_event FROM jobs")
    for job_id, state, has_ended, lease, last_event in after.fetchall():
        ended = before[job_id] in rows.ENDED
        assert (state, has_ended, lease) == (before[job_id] if ended else "cancelled", True, None)
        assert last_event == (1 if ended else 2)
    told = connection.execute("SELECT count(*) FROM events WHERE number = 2 AND kind = 'cancelled'").fetchone()
    assert told == (3,)
    tally = "SELECT sum(queued_jobs), sum(running_jobs), sum(stored_bytes) FROM tallies"
    assert connection.execute(tally).fetchone() == (0, 0, 1000)
    command.upgrade(configuration, "head")
    command.check(configuration)


def test_every_column_of_every_table_is_filled(connection, configuration):
    """Or else a migration could empty it unseen."""
    command.upgrade(configuration, "head")
    rows.fill(connection, 1)
    for table, columns in rows.shape(connection).items():
        for column in columns:
            query = f'SELECT count("{column}") FROM "{table}"'
            assert connection.execute(query).fetchone() > (0,), f"{table}.{column}"


def test_a_lost_value_is_noticed(connection, configuration):
    command.upgrade(configuration, "head")
    rows.fill(connection, 1)
    shape = rows.shape(connection)
    before = rows.contents(connection, shape)
    connection.execute("UPDATE learned_values SET data = data || '\\x00' WHERE iteration = 0")
    assert rows.contents(connection, shape) != before
