"""The how-to page on problem kinds: its package is installed, and its job is learned on the embedded stack."""

import numpy as np
import pytest

from retrograd.home import Home
from retrograd.local.stack import Stack
from tests.plugins import packages

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_the_package_is_installed_and_learned_from(tmp_path, monkeypatch):
    folder = packages.autoencoder(tmp_path / "packages")
    monkeypatch.setenv("PYTHONPATH", str(folder))  # of the service's processes: as if it were installed
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RETROGRAD_URL", raising=False)
    names = {}
    with Stack(Home(tmp_path / ".retrograd"), port=0):
        exec(compile(packages.block("test: client"), str(packages.PAGE), "exec"), names)
    job = names["job"]
    assert job["state"] == "succeeded", job
    assert job["certificate"]["exact"]
    assert job["losses"]["best"]["outer"] < job["losses"]["initial"]["outer"]
    assert np.shape(names["learned"]) == (50,)
    assert job["spec"]["problem"]["version"] == "1.0"
