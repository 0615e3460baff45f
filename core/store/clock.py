"""The database's clock, the only one that decides anything."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import DateTime, ScalarSelect, func, select


def now() -> ScalarSelect[datetime]:
    """The time, read once in a statement, to compare columns with.

    `clock_timestamp()` by itself may change from row to row, so no index is searched by it: every row would be read.
    """
    return select(func.clock_timestamp(type_=DateTime(timezone=True))).scalar_subquery()
