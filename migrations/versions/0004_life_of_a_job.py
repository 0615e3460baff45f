"""Pausing, events, idempotency keys, webhooks, scopes of keys, quotas and what they count, uploaded data sets.

Revision: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.locks import lock
from migrations.tallies import UPLOADS, add, tally, untally

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_JOBS = """
    SELECT project_id, count(*) FILTER (WHERE state = 'queued') AS queued,
        count(*) FILTER (WHERE state = 'running') AS running, CAST(sum(stored_bytes) AS bigint) AS bytes
    FROM {table} GROUP BY project_id
"""
_MOVED = """
    SELECT changed.project_id, 0 AS bytes,
        sum(CAST(changed.state = 'queued' AS int) - CAST(old_rows.state = 'queued' AS int)) AS queued,
        sum(CAST(changed.state = 'running' AS int) - CAST(old_rows.state = 'running' AS int)) AS running
    FROM changed JOIN old_rows USING (id) WHERE changed.state <> old_rows.state GROUP BY changed.project_id
"""
_TALLIED = {
    ("jobs", "insert"): _JOBS.format(table="changed"),
    ("jobs", "update"): _MOVED,
    ("jobs", "delete"): _JOBS.format(table="changed"),
    ("datasets", "insert"): UPLOADS,
    ("datasets", "delete"): UPLOADS,
}
_LOCKED = ("api_keys", "projects", "jobs", "outbox")

_STATES = "state IN ('queued', 'running', {}'succeeded', 'failed', 'cancelled')"

_CERTIFICATES = """
UPDATE jobs SET certificate = found.certificate
FROM (
    SELECT job_id, jsonb_build_object(
        'exact', bool_and(coalesce((one ->> 'exact')::boolean, false)),
        'iterations', count(*),
        'mismatched_bits', CASE WHEN count(one ->> 'mismatched_bits') = count(*)
                           THEN sum((one ->> 'mismatched_bits')::bigint) END,
        'stored_bits_per_param_step', max((one ->> 'stored_bits_per_param_step')::float8),
        'bound_bits_per_param_step', max((one ->> 'bound_bits_per_param_step')::float8),
        'engine', string_agg(DISTINCT one ->> 'engine', ', '),
        'mode', string_agg(DISTINCT nullif(one ->> 'mode', ''), ', ')
    ) AS certificate
    FROM (SELECT job_id, certificate AS one FROM iterations) AS each
    WHERE one ->> 'engine' <> ''
    GROUP BY job_id
) AS found
WHERE jobs.id = found.job_id
"""  # until now it was put together each time a job was read


def upgrade() -> None:
    lock(*_LOCKED)
    op.add_column("projects", sa.Column("quotas", postgresql.JSONB(), nullable=True))
    op.add_column("api_keys", sa.Column("name", sa.Text(), server_default="", nullable=False))
    op.add_column(
        "api_keys",
        sa.Column("scopes", sa.ARRAY(sa.Text()), server_default=sa.text("'{read,write,admin}'"), nullable=False),
    )
    op.add_column("api_keys", _time("last_used_at"))
    op.add_column("api_keys", _time("revoked_at"))
    op.create_table(
        "usage",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("device_seconds", sa.Double(), nullable=False),
        _to_project("usage"),
        sa.PrimaryKeyConstraint("project_id", "day", name=op.f("pk_usage")),
    )
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        _now("created_at"),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_blobs")),
    )
    op.create_table(
        "datasets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("summary", postgresql.JSONB(), nullable=False),
        _now("created_at"),
        _to_project("datasets"),
        sa.ForeignKeyConstraint(["sha256"], ["blobs.sha256"], name=op.f("fk_datasets_sha256")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
        sa.UniqueConstraint("project_id", "sha256", "name", name=op.f("uq_datasets_project_id_sha256_name")),
    )
    op.create_index("ix_datasets_project_id_created_at_id", "datasets", ["project_id", "created_at", "id"])
    op.create_index(op.f("ix_datasets_sha256"), "datasets", ["sha256"])

    op.add_column("jobs", sa.Column("dataset_id", sa.Text(), nullable=True))
    op.create_foreign_key(
        op.f("fk_jobs_dataset_id"), "jobs", "datasets", ["dataset_id"], ["id"], ondelete="SET NULL"
    )
    op.add_column("jobs", sa.Column("certificate", postgresql.JSONB(), nullable=True))
    op.execute(_CERTIFICATES)
    op.add_column("jobs", sa.Column("pause_requested", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("jobs", sa.Column("last_event", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("jobs", _time("accounted_at"))
    op.add_column("jobs", sa.Column("device_seconds", sa.Double(), server_default="0", nullable=False))
    op.drop_constraint(op.f("ck_jobs_state"), "jobs", type_="check")
    op.create_check_constraint(op.f("ck_jobs_state"), "jobs", _STATES.format("'paused', "))
    op.create_check_constraint(op.f("ck_jobs_last_event_not_negative"), "jobs", "last_event >= 0")
    op.create_index("ix_jobs_project_id_state_created_at_id", "jobs", ["project_id", "state", "created_at", "id"])
    op.create_index(
        "ix_jobs_project_id_preset_created_at_id", "jobs", ["project_id", "preset", "created_at", "id"]
    )
    op.create_index(
        "ix_jobs_project_id_preset_state_created_at_id",
        "jobs",
        ["project_id", "preset", "state", "created_at", "id"],
    )
    op.create_index("ix_outbox_created_at", "outbox", ["created_at"])
    op.create_index(
        "ix_jobs_unended",
        "jobs",
        ["project_id", "state"],
        postgresql_where="state IN ('queued', 'running', 'paused')",
    )
    op.create_index("ix_jobs_ended", "jobs", ["ended_at"], postgresql_where="ended_at IS NOT NULL")
    op.create_index("ix_jobs_dataset_id", "jobs", ["dataset_id"], postgresql_where="dataset_id IS NOT NULL")
    op.add_column("jobs", sa.Column("held", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("jobs", sa.Column("stored_bytes", sa.BigInteger(), server_default="0", nullable=False))
    op.drop_index("ix_jobs_queued", table_name="jobs")
    op.create_index(
        "ix_jobs_queued", "jobs", ["queue", "published_at"], postgresql_where="state = 'queued' AND NOT held"
    )
    op.create_index("ix_jobs_held", "jobs", ["project_id", "queue"], postgresql_where="state = 'queued' AND held")
    op.create_index(
        "ix_jobs_waiting",
        "jobs",
        ["project_id", "queue", "held", "created_at"],
        postgresql_where="state = 'queued'",
    )
    _add_tallies()
    op.create_table(
        "events",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(), nullable=False),
        _now("created_at"),
        _to_job("events"),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_events")),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        _now("created_at"),
        _to_project("idempotency_keys"),
        _to_job("idempotency_keys", ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("project_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    op.create_index(op.f("ix_idempotency_keys_job_id"), "idempotency_keys", ["job_id"])
    op.create_table(
        "webhooks",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        _time("disabled_at"),
        _to_job("webhooks"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_webhooks")),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column(
            "next_attempt_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=True,
        ),
        _time("delivered_at"),
        sa.Column("last_error", sa.Text(), nullable=True),
        _now("created_at"),
        sa.ForeignKeyConstraint(
            ["job_id"], ["webhooks.job_id"], name=op.f("fk_deliveries_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
    )
    op.create_index("ix_deliveries_job_id", "deliveries", ["job_id"])
    op.create_index(
        "ix_deliveries_due", "deliveries", ["next_attempt_at"], postgresql_where="next_attempt_at IS NOT NULL"
    )


def downgrade() -> None:
    lock(*_LOCKED)
    op.execute(
        "UPDATE jobs SET state = 'cancelled', ended_at = clock_timestamp(), cancel_requested = true "
        "WHERE state = 'paused'"  # there is no such state before; a retry goes on from the checkpoint
    )
    for table in ("deliveries", "webhooks", "idempotency_keys", "events"):
        op.drop_table(table)
    op.drop_index("ix_outbox_created_at", table_name="outbox")
    for table, event in _TALLIED:
        untally(table, event)
    op.drop_table("tallies")
    op.drop_index("ix_jobs_queued", table_name="jobs")
    op.create_index("ix_jobs_queued", "jobs", ["queue", "published_at"], postgresql_where="state = 'queued'")
    for index in (
        "waiting",
        "held",
        "dataset_id",
        "ended",
        "unended",
        "project_id_preset_state_created_at_id",
        "project_id_preset_created_at_id",
        "project_id_state_created_at_id",
    ):
        op.drop_index(f"ix_jobs_{index}", table_name="jobs")
    op.drop_constraint(op.f("ck_jobs_last_event_not_negative"), "jobs", type_="check")
    op.drop_constraint(op.f("ck_jobs_state"), "jobs", type_="check")
    op.create_check_constraint(op.f("ck_jobs_state"), "jobs", _STATES.format(""))
    for column in (
        "stored_bytes",
        "held",
        "device_seconds",
        "accounted_at",
        "last_event",
        "pause_requested",
        "certificate",
        "dataset_id",
    ):
        op.drop_column("jobs", column)
    for table in ("datasets", "blobs", "usage"):
        op.drop_table(table)
    for column in ("revoked_at", "last_used_at", "scopes", "name"):
        op.drop_column("api_keys", column)
    op.drop_column("projects", "quotas")


def _add_tallies() -> None:
    op.create_table(
        "tallies",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("queued_jobs", sa.BigInteger(), nullable=False),
        sa.Column("running_jobs", sa.BigInteger(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        _to_project("tallies"),
        sa.PrimaryKeyConstraint("project_id", "shard", name=op.f("pk_tallies")),
    )
    add(_JOBS.format(table="jobs"))  # those have 0 bytes
    for (table, event), counted in _TALLIED.items():
        tally(table, event, counted)


def _now(name: str) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False)


def _time(name: str) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=True)


def _to_project(table: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_project_id")
    return sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=name, ondelete="CASCADE")


def _to_job(table: str, ondelete: str = "CASCADE") -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f(f"fk_{table}_job_id"), ondelete=ondelete)
