"""`import retrograd` and `retrograd --help` are light, and the library's names are core's own."""

import subprocess
import sys

import pytest

import core
import retrograd


def loaded_after(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_import_loads_nothing_heavy():
    heavy = {"jax", "numpy", "typer", "uvicorn", "httpx", "celery", "sqlalchemy", "pydantic"}
    assert not loaded_after("import retrograd") & heavy
    assert not loaded_after("from retrograd import Client") & (heavy - {"httpx"})


def test_the_command_loads_no_numerics_and_no_server():
    """So `retrograd --help` is quick; its seconds would depend on what else the machine does."""
    assert not loaded_after("import retrograd.cli") & {
        "jax",
        "numpy",
        "sklearn",
        "uvicorn",
        "celery",
        "sqlalchemy",
        "fastapi",
        "matplotlib",
        "optuna",
    }


@pytest.mark.parametrize("name", core.__all__)
def test_public_names_are_those_of_core(name):
    assert getattr(retrograd, name) is getattr(core, name)
    assert name in dir(retrograd)


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'hypergradiant'"):
        retrograd.hypergradiant  # noqa: B018
