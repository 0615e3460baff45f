"""The first API key, from `RETROGRAD_BOOTSTRAP_API_KEY`. Stored at every start of the API, or by
`python -m api.bootstrap`.
"""

from __future__ import annotations

from sqlalchemy.orm import Session, sessionmaker

from core.config import Settings, get_settings
from core.store import keys
from core.store.session import open_store


def store_key(sessions: sessionmaker[Session], settings: Settings) -> None:
    """Store the key, hashed, for the default project. Any number of processes may do so at once."""
    if settings.bootstrap_api_key is None:
        return
    with sessions.begin() as session:
        project = keys.ensure_project(session, keys.DEFAULT_PROJECT)
        keys.add(session, project, settings.bootstrap_api_key.get_secret_value())


if __name__ == "__main__":
    store_key(open_store(get_settings().database_url), get_settings())
