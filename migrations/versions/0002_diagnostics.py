"""Diagnostics of meta-iterations.

Revision: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("iterations", sa.Column("diagnostics", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("iterations", "diagnostics")
