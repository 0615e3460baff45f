"""Every example runs as a user runs it, and what it learns is no worse than where it starts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from retrograd.home import Home
from retrograd.local.stack import Stack

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "running.py")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with Stack(Home(tmp_path_factory.mktemp("examples")), port=0) as stack:
        yield {"RETROGRAD_URL": stack.url, "RETROGRAD_API_KEY": stack.api_key}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_learned_is_no_worse(name, home, tmp_path):
    environ = {**os.environ, **home}
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, "--iterations", "6"],
        cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=1700,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "exact: True" in done.stdout
    before, after = map(float, re.search(r"valid loss +(\S+) -> (\S+)", done.stdout).groups())
    assert after <= before, done.stdout
    if outside := re.search(r"(\S+) of the job, (\S+) outside", done.stdout):
        assert float(outside[1]) == pytest.approx(float(outside[2]), abs=2e-4)


def test_one_starts_a_service_where_there_is_none(tmp_path):
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RETROGRAD_")}
    done = subprocess.run(
        [sys.executable, EXAMPLES / "noisy_labels.py", "--iterations", "2"],
        cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=1700,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "area under the ROC curve" in done.stdout
