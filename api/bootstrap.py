"""The first API keys.

`RETROGRAD_BOOTSTRAP_API_KEY`, if set, is stored for the default project at every start of the API, or by
`python -m api.bootstrap`. With `--project NAME` that makes a project instead, and prints a key for it.
"""

from __future__ import annotations

import argparse
import sys

from pydantic import ValidationError
from sqlalchemy.orm import Session, sessionmaker

from core.config import Settings, get_settings
from core.store import keys, quotas
from core.store.session import open_store


def store_key(sessions: sessionmaker[Session], settings: Settings) -> None:
    """Store the key, hashed, for the default project. Any number of processes may do so at once."""
    if settings.bootstrap_api_key is None:
        return
    with sessions.begin() as session:
        project = keys.ensure_project(session, keys.DEFAULT_PROJECT)
        keys.add(session, project, settings.bootstrap_api_key.get_secret_value())


def make_project(
    sessions: sessionmaker[Session], settings: Settings, name: str, key_name: str, own: dict[str, int | None]
) -> str:
    """A new admin key of the project, which is made if there is none, with some quotas of its own."""
    with sessions.begin() as session:
        project = keys.ensure_project(session, name)
        if own:
            quotas.set_own(session, project, own, settings.quotas)
        _, key = keys.create(session, project, key_name, [keys.Scope.ADMIN])
    return key


def main() -> None:
    """Carry out the command."""
    parser = argparse.ArgumentParser(prog="python -m api.bootstrap", description="Store the first API keys.")
    parser.add_argument("--project", metavar="NAME", help="make this project, and print a new admin key of it")
    parser.add_argument("--key-name", metavar="NAME", default="bootstrap", help="of the new key")
    parser.add_argument(
        "--quota",
        metavar="NAME=LIMIT",
        action="append",
        default=[],
        type=_quota,
        help="give the project a quota of its own, such as queued_jobs=100; without a limit it loses it again",
    )
    arguments = parser.parse_args()
    settings = get_settings()
    sessions = open_store(settings.database_url, application="retrograd bootstrap")
    if arguments.project is None:
        store_key(sessions, settings)
        return
    try:
        key = make_project(sessions, settings, arguments.project, arguments.key_name, dict(arguments.quota))
    except ValidationError as error:
        first = error.errors()[0]
        parser.error(f"--quota {'.'.join(map(str, first['loc']))}: {first['msg']}")
    sys.stdout.write(f"{key}\n")


def _quota(text: str) -> tuple[str, int | None]:
    name, _, limit = text.partition("=")
    return name, int(limit) if limit else None


if __name__ == "__main__":
    main()
