"""For tests that compile: the mode of every user of the reversible engine, and memory that is given back."""

import jax
import pytest

jax.config.update("jax_enable_x64", True)


@pytest.fixture(autouse=True, scope="module")
def compilations_go_with_their_module():
    """Every compiled program holds memory maps, of which Linux grants a process 65530; without this XLA crashes."""
    yield
    jax.clear_caches()
