"""API keys of the caller's own project. All of it needs the scope admin, which stands for every other.

So nobody gives a key more than their own may do.
"""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Response

from api.deps import AdminDep, SessionDep
from api.schemas.projects import KeyCreate, KeyCreated, KeyList, KeyRead
from core.store import keys

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.get("", summary="List API keys")
def list_keys(project: AdminDep, session: SessionDep) -> KeyList:
    """What each key may do and when it was last used; never the key."""
    return KeyList(data=[KeyRead.of(row) for row in keys.listed(session, project)])


@router.post("", status_code=201, summary="Create an API key")
def create_key(new: KeyCreate, project: AdminDep, session: SessionDep, response: Response) -> KeyCreated:
    """Make a key for this project. It is shown once."""
    row, key = keys.create(session, project, new.name, new.scopes)
    response.headers["Cache-Control"] = "no-store"
    return KeyCreated.model_validate(KeyRead.of(row).model_dump() | {"key": key})


@router.delete("/{key_id}", status_code=204, summary="Revoke an API key")
def revoke_key(key_id: UUID, project: AdminDep, session: SessionDep) -> None:
    """Have a key refused from now on. The last one with the scope admin stays."""
    keys.revoke(session, project, key_id)
