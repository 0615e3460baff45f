"""Names of jobs in the index of their list: a search reads it, and of the table what it shows.

Revision: 0007
Revises: 0006
"""

from __future__ import annotations

from migrations.indexes import rebuild

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_LOCKED = ("api_keys", "projects", "jobs", "outbox", "datasets", "blobs")  # on the way down, what 0005 takes
_INDEX, _COLUMNS = "ix_jobs_project_id_created_at_id", ["project_id", "created_at", "id"]


def upgrade() -> None:
    rebuild(_INDEX, "jobs", _COLUMNS, ["jobs"], postgresql_include=["name", "state", "preset"])


def downgrade() -> None:
    rebuild(_INDEX, "jobs", _COLUMNS, _LOCKED)
