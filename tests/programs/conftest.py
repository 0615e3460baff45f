"""Tests of programs run in 64-bit mode, as every user of the reversible engine must."""

import jax.numpy as jnp
import pytest

from tests.compiled import compilations_go_with_their_module  # noqa: F401
from tests.programs import recurrent


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
