"""The command without a server: what it refuses, where it says so, and how it exits."""

import json
import os
import subprocess
import sys

import pytest
import typer

from retrograd.cli.overrides import override


@pytest.fixture
def retrograd(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RETROGRAD_")}

    def run(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "retrograd", *arguments],
            input=stdin, capture_output=True, text=True, cwd=tmp_path, env=environment | variables,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("command", ["status", "watch", "download", "presets", "submit --preset x", "cancel x"])
def test_without_a_server_one_paragraph_names_the_remedy(retrograd, command):
    run = retrograd(*command.split())
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.startswith("error: no server is known here")
    assert "`retrograd up`" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_server_that_does_not_answer_is_named(retrograd):
    run = retrograd("status", RETROGRAD_URL="http://127.0.0.1:9")
    assert run.returncode == 1
    assert "http://127.0.0.1:9 does not answer" in run.stderr


@pytest.mark.parametrize(
    "command",
    ["submit", "submit --preset x file.json", "download --iteration first", "up --port many", "fly"],
)
def test_wrong_usage_exits_with_2(retrograd, command):
    run = retrograd(*command.split())
    assert run.returncode == 2
    assert "Usage:" in run.stderr


def test_version(retrograd):
    import retrograd as package

    assert retrograd("--version").stdout == f"retrograd {package.__version__}\n"


def test_doctor_finds_everything_here(retrograd):
    run = retrograd("doctor", "--json", "--port", "0")
    findings = {finding["check"]: finding for finding in json.loads(run.stdout)}
    assert run.returncode == 0, run.stdout
    assert {"Python", "packages", "JAX", "64-bit arithmetic", "embedded Postgres", "embedded Valkey"} <= {
        check for check, finding in findings.items() if finding["verdict"] == "ok"
    }
    assert findings["server"]["verdict"] == "note"
    assert "retrograd up" in findings["server"]["remedy"]


def test_doctor_names_what_is_missing_and_the_remedy(retrograd, tmp_path):
    run = retrograd("doctor", RETROGRAD_DATA=str(tmp_path / "nowhere"), RETROGRAD_URL="http://127.0.0.1:9")
    assert run.returncode == 1
    assert "correct or unset it" in run.stdout
    assert "does not answer" in " ".join(run.stdout.split())


def test_overrides_reach_into_the_job_and_leave_the_original():
    spec = {"meta": {"num_iterations": 50}, "name": "old"}
    changed = override(
        spec, ["meta.num_iterations=3", "name=two words", "engine=auto", "hyperparameters.l2.per=[]"]
    )
    assert changed == {
        "meta": {"num_iterations": 3},
        "name": "two words",
        "engine": "auto",
        "hyperparameters": {"l2": {"per": []}},
    }
    assert spec == {"meta": {"num_iterations": 50}, "name": "old"}


@pytest.mark.parametrize("setting", ["meta", "=3", "meta..x=1", "name.first=x"])
def test_overrides_that_make_no_sense_are_refused(setting):
    with pytest.raises(typer.BadParameter):
        override({"name": "a"}, [setting])
