"""An index is built anew while the service is at work.

Revisions are made of what stands here: add to it, but let what a revision does stay as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alembic import op

from migrations.locks import lock


def rebuild(name: str, table: str, columns: Sequence[str], locked: Sequence[str], **options: Any) -> None:
    """Put another index in the place of the one with this name. Nobody waits but while names are exchanged.

    It is built concurrently, so outside of transactions: what the revisions before have done is committed. Whatever
    builds it inside of one has `table` locked against writers, and would then wait for readers, of whom some wait to
    write. A revision that broke off can be run again.

    Args:
        locked: tables that the exchange takes, see `lock`; `table` is one of them.
        options: of `op.create_index`.
    """
    beside = f"{name}_new"
    with op.get_context().autocommit_block():
        op.drop_index(beside, table_name=table, postgresql_concurrently=True, if_exists=True)
        op.create_index(beside, table, columns, postgresql_concurrently=True, **options)
    lock(*locked)
    op.drop_index(name, table_name=table)
    op.execute(f"ALTER INDEX {beside} RENAME TO {name}")
