"""README's claims are commands, and these are run here."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from retrograd.home import Home
from retrograd.local.stack import Stack

ROOT = Path(__file__).parents[1]


def block(name):
    """The fenced block of README marked with this name."""
    pattern = rf"<!-- test: {name} -->\n```\w+\n(.*?)```"
    return re.search(pattern, (ROOT / "README.md").read_text(), re.DOTALL).group(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which `retrograd up` runs."""
    folder = tmp_path_factory.mktemp("readme")
    with Stack(Home(folder / ".retrograd"), port=0):
        yield folder


@pytest.fixture
def shell(folder):
    def run(script):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RETROGRAD_")}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        done = subprocess.run(
            ["bash", "-euc", script], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_the_command_line(shell, folder):
    shell(block("command line"))
    saved = json.loads((folder / "learned.json").read_text())
    assert saved["certificate"]["exact"]
    (job,) = json.loads(shell("retrograd ls --json"))
    assert saved["job_id"] == job["id"]


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_alone(shell, folder):
    shell(block("curl"))
    learned = json.loads((folder / "learned.json").read_text())
    assert learned["certificate"] | {"exact": True, "mismatched_bits": 0} == learned["certificate"]
    assert learned["losses"]["best"]["outer"] < 0.1 * learned["losses"]["initial"]["outer"]
    assert set(learned["hyperparameters"]) == {"step_size", "momentum", "init_scale"}
    assert len(json.loads((folder / "iterations.json").read_text())["data"]) == 50


def test_the_client(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    names = {}
    exec(compile(block("client"), "README.md", "exec"), names)
    assert names["job"].state == "succeeded"
    assert capsys.readouterr().out.startswith("(100, 8) weight per velocity 0.")


def test_the_library_example():
    done = subprocess.run([sys.executable, "-c", block("python")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("True 0\n")


def test_every_make_target_it_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^ +|=\S+ +)make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert {"demo", "test", "serve"} <= named <= targets


def test_every_file_it_links_to_exists():
    for document in (ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name} links to {link}"
