"""Triggers by which the database keeps what projects hold: see `migrations.locks` on changing them."""

from __future__ import annotations

from alembic import op

# What rows change in their project's tally. All rows of a statement together, so that a million may be inserted at
# once; tallies are locked in one order, so that two statements on many projects do not deadlock. A tally is the sum of
# up to 64 rows, of which a connection changes its own: those of others need not wait until it commits.
_ADD = """
    INSERT INTO tallies AS tally (project_id, shard, queued_jobs, running_jobs, stored_bytes)
    SELECT project_id, pg_backend_pid() % 64, {sign} queued, {sign} running, {sign} bytes
    FROM ({counted}) AS counted WHERE project_id IN (SELECT id FROM projects) ORDER BY project_id
    ON CONFLICT (project_id, shard) DO UPDATE SET
        queued_jobs = tally.queued_jobs + excluded.queued_jobs,
        running_jobs = tally.running_jobs + excluded.running_jobs,
        stored_bytes = tally.stored_bytes + excluded.stored_bytes;
"""
_ROWS = {
    "insert": ("NEW TABLE AS changed", "+"),
    "update": ("OLD TABLE AS old_rows NEW TABLE AS changed", "+"),
    "delete": ("OLD TABLE AS changed", "-"),
}
UPLOADS = """
    SELECT project_id, 0 AS queued, 0 AS running, CAST(sum(size) AS bigint) AS bytes
    FROM changed JOIN blobs USING (sha256) GROUP BY project_id
"""
"""What rows over blobs hold: data sets, programs."""


def add(counted: str) -> None:
    """Tally what this query finds: project_id, queued, running, bytes; one row a project."""
    op.execute(_ADD.format(sign="+", counted=counted))


def tally(table: str, event: str, counted: str) -> None:
    """Tally from now on what `counted` finds in `changed`, the rows that an insert, update or delete is about.

    Those of an update are the new ones, beside `old_rows`.
    """
    rows, sign = _ROWS[event]
    function, body = f"tally_{table}_{event}", _ADD.format(sign=sign, counted=counted)
    op.execute(
        f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NULL; END $$"
    )
    op.execute(
        f"CREATE TRIGGER tally_{event} AFTER {event.upper()} ON {table} "
        f"REFERENCING {rows} FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
    )


def untally(table: str, event: str) -> None:
    """The inverse of `tally`."""
    op.execute(f"DROP TRIGGER tally_{event} ON {table}")
    op.execute(f"DROP FUNCTION tally_{table}_{event}")
