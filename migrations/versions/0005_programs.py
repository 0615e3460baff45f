"""Programs: problems of users' own, exported by JAX.

Revision: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.locks import lock
from migrations.tallies import UPLOADS, tally, untally

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_CANCEL = """
WITH cancelled AS (
    UPDATE jobs SET
        state = 'cancelled', ended_at = clock_timestamp(), cancel_requested = true, pause_requested = false,
        held = false, lease_expires_at = NULL, last_event = last_event + 1
    WHERE state IN ('queued', 'running', 'paused') AND spec -> 'problem' ->> 'kind' IN ('program', 'plugin')
    RETURNING id, last_event
)
INSERT INTO events (job_id, number, kind, data) SELECT id, last_event, 'cancelled', '{}' FROM cancelled
"""  # nobody can run them before; where there are programs again, they may be retried
_LOCKED = ("api_keys", "projects", "jobs", "outbox", "datasets", "blobs")


def upgrade() -> None:
    lock(*_LOCKED)
    op.create_table(
        "programs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("summary", postgresql.JSONB(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_programs_project_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["sha256"], ["blobs.sha256"], name=op.f("fk_programs_sha256")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_programs")),
        sa.UniqueConstraint("project_id", "sha256", "name", name=op.f("uq_programs_project_id_sha256_name")),
    )
    op.create_index("ix_programs_project_id_created_at_id", "programs", ["project_id", "created_at", "id"])
    op.create_index(op.f("ix_programs_sha256"), "programs", ["sha256"])
    for event in ("insert", "delete"):
        tally("programs", event, UPLOADS)
    op.add_column("jobs", sa.Column("program_id", sa.Text(), nullable=True))
    op.create_foreign_key(
        op.f("fk_jobs_program_id"), "jobs", "programs", ["program_id"], ["id"], ondelete="SET NULL"
    )
    op.create_index("ix_jobs_program_id", "jobs", ["program_id"], postgresql_where="program_id IS NOT NULL")
    op.create_table(
        "job_data",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_data_job_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_job_data_dataset_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "name", name=op.f("pk_job_data")),
    )
    op.create_index(op.f("ix_job_data_dataset_id"), "job_data", ["dataset_id"])


def downgrade() -> None:
    lock(*_LOCKED)
    op.execute(_CANCEL)
    op.drop_table("job_data")
    op.drop_index("ix_jobs_program_id", table_name="jobs")
    op.drop_column("jobs", "program_id")
    op.execute("DELETE FROM programs")  # takes their bytes off the tallies
    for event in ("delete", "insert"):
        untally("programs", event)
    op.drop_table("programs")
