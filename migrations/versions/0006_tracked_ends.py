"""Ends of jobs that are to become runs on a tracking server.

Revision: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.locks import lock

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_LOCKED = ("api_keys", "projects", "jobs", "outbox", "datasets", "blobs")  # on the way down, what 0005 takes


def upgrade() -> None:
    lock("jobs")
    op.create_table(
        "tracked_ends",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("event", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "next_attempt_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=True,
        ),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_tracked_ends_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "event", name=op.f("pk_tracked_ends")),
    )
    op.create_index(
        "ix_tracked_ends_due",
        "tracked_ends",
        ["next_attempt_at"],
        postgresql_where="next_attempt_at IS NOT NULL",
    )


def downgrade() -> None:
    lock(*_LOCKED)
    op.drop_table("tracked_ends")
