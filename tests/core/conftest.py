"""Core tests run in 64-bit mode, as every user of the reversible engine must."""

import subprocess
import sys
import textwrap

import jax
import pytest

jax.config.update("jax_enable_x64", True)


@pytest.fixture(autouse=True, scope="module")
def _compilations_go_with_their_module():
    """Every compiled program holds memory maps, of which Linux grants a process 65530; without this XLA crashes."""
    yield
    jax.clear_caches()


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
