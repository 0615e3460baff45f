"""The how-to page on programs: what it says of submitting one is done here, on the embedded stack."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from retrograd.client import Client
from retrograd.home import Home
from retrograd.local.stack import Stack
from tests.programs.test_how_to import PAGE, page  # noqa: F401 - a fixture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def marked(name):
    return re.search(rf"<!-- test: {name} -->\n```\w+\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, page):  # noqa: F811
    """A folder in which `retrograd up` runs, with the files that the page speaks of."""
    folder = tmp_path_factory.mktemp("submitting")
    (folder / "recurrent.zip").write_bytes(page["program"])
    for name, arrays in page["data"].items():
        np.savez(folder / f"{name}.npz", **arrays)
    (document,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (folder / "job.json").write_text(document)
    with Stack(Home(folder / ".retrograd"), port=0):
        yield folder


@pytest.fixture(scope="module")
def by_client(folder, page):  # noqa: F811
    """What the page's block leaves behind."""
    names = dict(page)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("RETROGRAD_URL", raising=False)
        exec(compile(marked("client"), str(PAGE), "exec"), names)
    return names


def test_by_the_client(by_client):
    job = by_client["job"]
    assert job["state"] == "succeeded", job
    assert job["certificate"]["exact"]
    assert job["losses"]["best"]["outer"] < job["losses"]["initial"]["outer"]
    assert np.shape(by_client["learned"]) == (by_client["STEPS"],)


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_by_curl_the_same_is_learned(by_client, folder):
    done = subprocess.run(
        ["bash", "-euc", marked("curl")], cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((folder / "status.json").read_text())["state"] == "succeeded"
    learned = json.loads((folder / "learned.json").read_text())
    assert learned["certificate"]["exact"]
    assert learned["hyperparameters"]["log_step_size"]["values"] == by_client["learned"].tolist()


def test_on_the_command_line(by_client, folder):
    """The same program is there already, and shown."""
    environ = {**os.environ, "COLUMNS": "200"}
    run = [sys.executable, "-m", "retrograd", "programs"]
    told = [
        subprocess.run([*run, *arguments], cwd=folder, env=environ, capture_output=True, text=True, check=True)
        for arguments in (["upload", "recurrent.zip"], ["show", by_client["sent"]["id"]])
    ]
    assert told[0].stdout.startswith(by_client["sent"]["id"])
    assert "log_step_size: 40 float64" in told[1].stdout
    with Client(home=Home(folder / ".retrograd")) as client:
        assert [one["id"] for one in client.programs.list()] == [by_client["sent"]["id"]]
