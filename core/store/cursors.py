"""Where the next page of a list begins: the time and the id of the last row of the page before."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime

from core.store.errors import InvalidCursor


def encode(created_at: datetime, row_id: object) -> str:
    """An opaque cursor."""
    return base64.urlsafe_b64encode(f"{created_at.isoformat()} {row_id}".encode()).decode().rstrip("=")


def decode(cursor: str) -> tuple[datetime, str]:
    """Inverse of `encode`; the id as text, whatever it is.

    Raises:
        InvalidCursor: not one of ours.
    """
    try:
        decoded = base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)).decode()
        created_at, _, row_id = decoded.partition(" ")
        moment = datetime.fromisoformat(created_at)
    except (ValueError, binascii.Error) as error:
        raise InvalidCursor from error
    if moment.tzinfo is None:
        raise InvalidCursor
    return moment, row_id
