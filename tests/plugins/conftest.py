"""A process that has packages installed."""

import sys
from pathlib import Path

import pytest

from api.routes import problem_kinds
from core import plugins
from tests.compiled import compilations_go_with_their_module  # noqa: F401
from tests.plugins import packages


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs packages for the length of a test."""

    def forget():
        plugins.installed.cache_clear()
        problem_kinds._known.cache_clear()

    def install(*arguments):
        folder = packages.install(tmp_path / "packages", *arguments)
        monkeypatch.syspath_prepend(str(folder))
        forget()

    before = set(sys.modules)
    yield install
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]
    forget()
