"""API keys: `rg_` and 32 random bytes. Only their digests are kept."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.store.errors import InvalidKey
from core.store.models import ApiKey, Project

DEFAULT_PROJECT = "default"
_KEY = re.compile(r"rg_[A-Za-z0-9_-]{32,128}")
_PREFIX_LENGTH = len("rg_") + 6


def new_key() -> str:
    """A key that nobody has."""
    return f"rg_{secrets.token_urlsafe(32)}"


def ensure_project(session: Session, name: str) -> UUID:
    """The project of this name, made if there is none."""
    session.execute(insert(Project).values(name=name).on_conflict_do_nothing())
    return session.execute(select(Project.id).where(Project.name == name)).scalar_one()


def add(session: Session, project_id: UUID, key: str) -> None:
    """Let `key` speak for a project. A key that is there already stays as it is.

    Raises:
        InvalidKey: it does not look like one of ours.
    """
    if not _KEY.fullmatch(key):
        raise InvalidKey
    row = {"project_id": project_id, "prefix": key[:_PREFIX_LENGTH], "sha256": _digest(key)}
    session.execute(insert(ApiKey).values(row).on_conflict_do_nothing())


def project_of(session: Session, key: str) -> UUID | None:
    """The project that `key` speaks for, None when it is nobody's."""
    if not _KEY.fullmatch(key):
        return None
    digest = _digest(key)
    candidates = session.execute(
        select(ApiKey.sha256, ApiKey.project_id).where(ApiKey.prefix == key[:_PREFIX_LENGTH])
    )
    # Found by its prefix and compared in constant time: an index search on the digest would leak its bytes.
    matches = [row.project_id for row in candidates if hmac.compare_digest(row.sha256, digest)]
    return matches[0] if matches else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
