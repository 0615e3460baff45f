"""Core tests run in 64-bit mode, as every user of the reversible engine must."""

import subprocess
import sys
import textwrap

import pytest

from tests.compiled import compilations_go_with_their_module  # noqa: F401 - and 64-bit mode


@pytest.fixture
def run_python():
    """Run a program in a fresh interpreter and return what it prints."""

    def run(program: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
