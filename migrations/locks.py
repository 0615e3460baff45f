"""Locks of a migration while the service is at work.

Revisions are made of what stands here and in `tallies`: add to them, but let what a revision does stay as it is.
"""

from __future__ import annotations

from alembic import op

_LOCK = """
DO $$
DECLARE tries int := 0;
BEGIN
    LOOP
        BEGIN
            PERFORM set_config('lock_timeout', '300ms', true);  -- before Postgres looks for deadlocks, after 1 s
            LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE;
            EXIT;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN  -- gives back those that it has
            tries := tries + 1;
            IF tries = 300 THEN RAISE; END IF;
            PERFORM pg_sleep(0.1 * random());
        END;
    END LOOP;
    PERFORM set_config('lock_timeout', '0', true);
END $$
"""


def lock(*tables: str) -> None:
    """Have tables for oneself until the end: all before the first change, and all or none.

    Who waits for one lock while it holds another is part of a deadlock with the service at work, as requests take
    `jobs` before `outbox`, and janitors the other way round. Several revisions may run in one transaction: on the way
    down each takes what the one before it takes.
    """
    op.execute(_LOCK.format(tables=", ".join(tables)))
