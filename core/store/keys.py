"""API keys: `rg_` and 32 random bytes. Only their digests are kept."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.store.errors import InvalidKey, LastAdminKey, TooManyKeys, UnknownKey
from core.store.models import ApiKey, Project

DEFAULT_PROJECT = "default"
MOST_KEYS = 100
"""Keys of a project that are not revoked."""

TOUCH_SECONDS = 60
"""The time of a key's last use is known to so many seconds."""

_KEY = re.compile(r"rg_[A-Za-z0-9_-]{32,128}")
_PREFIX_LENGTH = len("rg_") + 6
_LISTED = 2 * MOST_KEYS


class Scope(StrEnum):
    """What a key may do. A set: write does not imply read, so a key may submit jobs and see none."""

    READ = "read"  # look
    WRITE = "write"  # change
    ADMIN = "admin"  # all of that, and manage keys


ALL = frozenset(Scope)


class Caller(NamedTuple):
    """Who asks: a key, the project that it speaks for, and what it may do there."""

    key_id: UUID
    project_id: UUID
    scopes: frozenset[str]

    def may(self, scope: Scope) -> bool:
        """Whether the key has the scope; admin stands for all."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


def new_key() -> str:
    """A key that nobody has."""
    return f"rg_{secrets.token_urlsafe(32)}"


def looks_like_one(key: str) -> bool:
    """Whether it could be an API key."""
    return _KEY.fullmatch(key) is not None


def digest(key: str) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).digest()


def ensure_project(session: Session, name: str) -> UUID:
    """The project of this name, made if there is none."""
    session.execute(insert(Project).values(name=name).on_conflict_do_nothing())
    return session.execute(select(Project.id).where(Project.name == name)).scalar_one()


def project_name(session: Session, project_id: UUID) -> str:
    """The project's name."""
    return session.execute(select(Project.name).where(Project.id == project_id)).scalar_one()


def add(session: Session, project_id: UUID, key: str, *, name: str = "", scopes: Iterable[Scope] = ALL) -> None:
    """Let `key` speak for a project. A key that is there already stays as it is, revoked ones too.

    Raises:
        InvalidKey: it does not look like one of ours.
    """
    if not looks_like_one(key):
        raise InvalidKey
    row = {
        "project_id": project_id,
        "name": name,
        "prefix": key[:_PREFIX_LENGTH],
        "sha256": digest(key),
        "scopes": sorted(set(scopes)),
    }
    session.execute(insert(ApiKey).values(row).on_conflict_do_nothing())


def create(session: Session, project_id: UUID, name: str, scopes: Iterable[Scope]) -> tuple[ApiKey, str]:
    """Make a key; returns its row, and the key itself, which is nowhere else.

    Raises:
        TooManyKeys: the project has a hundred.
    """
    _lock(session, project_id)
    if len(_alive(session, project_id)) >= MOST_KEYS:
        raise TooManyKeys(MOST_KEYS)
    key = new_key()
    add(session, project_id, key, name=name, scopes=scopes)
    return session.scalars(select(ApiKey).where(ApiKey.sha256 == digest(key))).one(), key


def listed(session: Session, project_id: UUID) -> Sequence[ApiKey]:
    """The project's keys, newest first: those in force, then the last ones revoked, 200 at most."""
    query = select(ApiKey).where(ApiKey.project_id == project_id)
    return session.scalars(
        query.order_by(ApiKey.revoked_at.is_not(None), ApiKey.created_at.desc()).limit(_LISTED)
    ).all()


def revoke(session: Session, project_id: UUID, key_id: UUID) -> None:
    """Have a key speak for nobody from now on. A second time changes nothing.

    Raises:
        UnknownKey: the project has none of this id.
        LastAdminKey: it is the project's only one with the scope admin.
    """
    _lock(session, project_id)  # else two admins could revoke each other's key at once
    key = session.scalars(select(ApiKey).where(ApiKey.id == key_id, ApiKey.project_id == project_id)).one_or_none()
    if key is None:
        raise UnknownKey(key_id)
    if key.revoked_at is not None:
        return
    others = [other for other in _alive(session, project_id) if other.id != key_id]
    if Scope.ADMIN in key.scopes and not any(Scope.ADMIN in other.scopes for other in others):
        raise LastAdminKey
    session.execute(
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=func.clock_timestamp())
    )


def caller(session: Session, key: str) -> Caller | None:
    """Whom `key` speaks for, None when it is nobody's or was revoked."""
    if not looks_like_one(key):
        return None
    candidates = session.execute(
        select(ApiKey.id, ApiKey.project_id, ApiKey.scopes, ApiKey.sha256).where(
            ApiKey.prefix == key[:_PREFIX_LENGTH], ApiKey.revoked_at.is_(None)
        )
    )
    # Found by its prefix and compared in constant time: an index search on the digest would leak its bytes.
    matches = [
        Caller(row.id, row.project_id, frozenset(row.scopes))
        for row in candidates
        if hmac.compare_digest(row.sha256, digest(key))
    ]
    return matches[0] if matches else None


def in_force(session: Session, key_id: UUID) -> bool:
    """Whether the key still speaks for its project."""
    found = select(ApiKey.id).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
    return session.scalar(found) is not None


def touch(session: Session, key_id: UUID) -> bool:
    """Note that a key is in use, to the minute; returns whether that was news. Waits for nobody."""
    stale = ApiKey.last_used_at.is_(None) | (
        ApiKey.last_used_at < func.clock_timestamp() - timedelta(seconds=TOUCH_SECONDS)
    )
    free = select(ApiKey.id).where(ApiKey.id == key_id, stale).with_for_update(skip_locked=True)
    touched = session.execute(
        update(ApiKey).where(ApiKey.id.in_(free)).values(last_used_at=func.clock_timestamp()).returning(ApiKey.id)
    )
    return touched.one_or_none() is not None


def _alive(session: Session, project_id: UUID) -> Sequence[ApiKey]:
    return session.scalars(
        select(ApiKey).where(ApiKey.project_id == project_id, ApiKey.revoked_at.is_(None))
    ).all()


def _lock(session: Session, project_id: UUID) -> None:
    """Let one transaction at a time change the project's keys."""
    session.execute(select(Project.id).where(Project.id == project_id).with_for_update(key_share=True))
