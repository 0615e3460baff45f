"""Tests of programs run in 64-bit mode, as every user of the reversible engine must."""

import jax
import jax.numpy as jnp
import pytest

from tests.programs import recurrent

jax.config.update("jax_enable_x64", True)


@pytest.fixture(autouse=True, scope="module")
def _compilations_go_with_their_module():
    """Every compiled program holds memory maps, of which Linux grants a process 65530; without this XLA crashes."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def case():
    """The recurrent net in float32, and the program that it is exported as."""
    return recurrent.case()


@pytest.fixture(scope="session")
def exported(case):
    return case.export()


@pytest.fixture(scope="session")
def case64():
    return recurrent.case(jnp.float64)


@pytest.fixture(scope="session")
def exported64(case64):
    return case64.export()
