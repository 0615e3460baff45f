"""Bring the database to the newest schema: `python -m core.store.migrate`. Works from any folder."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.orm import Session

from core.config import get_settings


def upgrade(url: str) -> None:
    """Upgrade the database at `url` to head. Several processes may do so at once."""
    command.upgrade(configuration(url), "head")


def configuration(url: str = "") -> Config:
    """Alembic's configuration, as in alembic.ini but wherever the `migrations` package lies."""
    found = find_spec("migrations")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("the package `migrations` is missing; reinstall retrograd")
    config = Config()
    config.set_main_option("script_location", found.submodule_search_locations[0].replace("%", "%%"))
    config.attributes["url"] = url
    return config


@cache
def head() -> str | None:
    """The newest revision that this code knows."""
    return ScriptDirectory.from_config(configuration()).get_current_head()


def current(session: Session) -> str | None:
    """The revision that the database is at; None before the first migration."""
    if session.execute(text("SELECT to_regclass('alembic_version')")).scalar_one() is None:
        return None
    return session.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


if __name__ == "__main__":
    upgrade(get_settings().database_url)
