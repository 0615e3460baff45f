"""The command without a server: what it refuses, where it says so, and how it exits."""

import json
import os
import subprocess
import sys

import pytest
import typer

from retrograd.cli.overrides import override
from retrograd.cli.render import precise, size
from tests.builders import document


@pytest.fixture
def retrograd(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RETROGRAD_")}

    def run(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "retrograd", *arguments],
            input=stdin, capture_output=True, text=True, cwd=tmp_path, env=environment | variables,
        )  # fmt: skip

    return run


@pytest.mark.parametrize(
    "command",
    [
        *("ls", "show", "logs", "status", "watch", "download", "export-schedule", "presets", "kinds"),
        *("submit --preset x", "cancel x", "pause x", "resume x", "retry x"),
    ],
)
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
    [
        "submit",
        "submit --preset x file.json",
        "submit --preset x --dry-run --watch",
        "download --iteration first",
        "up --port many",
        "fly",
    ],
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


def test_a_job_is_paused_and_resumed_and_planned(retrograd, client, sessions, monkeypatch):
    from api import plans

    monkeypatch.setattr(plans, "_PROGRAM", "tests.api.foretold")
    key = client.headers["Authorization"].removeprefix("Bearer ")
    variables = {"RETROGRAD_URL": str(client.base_url), "RETROGRAD_API_KEY": key}
    planned = retrograd("submit", "-", "--dry-run", stdin=json.dumps(document()), **variables)
    assert planned.returncode == 0, planned.stderr
    assert "21 hyperparameters, 4 meta-iterations, 4 hypergradients, at most 6 trainings" in planned.stdout
    assert "Engine: reversible, or unrolled where that cannot be proven." in planned.stdout
    assert "0.5 s" in planned.stdout
    assert "training diverged: at once" in planned.stdout
    assert "the server's own machine" in planned.stdout
    as_json = retrograd("submit", "--preset", "digits-schedules", "--dry-run", "--json", **variables)
    assert json.loads(as_json.stdout)["num_hyperparameters"] == 1608
    assert client.get("/v1/jobs").json()["data"] == []

    job_id = client.post("/v1/jobs", json=document()).json()["id"]
    assert retrograd("pause", "latest", **variables).stdout == f"{job_id} is paused\n"
    assert "paused" in retrograd("status", **variables).stdout
    assert retrograd("resume", job_id[:8], **variables).stdout == f"{job_id} is queued\n"
    refused = retrograd("resume", job_id, **variables)
    assert refused.returncode == 1
    assert "cannot be resumed" in refused.stderr


def test_jobs_are_listed_shown_told_of_and_retried(command, client):
    job_id = client.post("/v1/jobs", json=document({"name": "mine [red]"})).json()["id"]
    client.post("/v1/jobs", json=document({"name": "other"}))
    assert command("cancel", job_id).exit_code == 0
    assert [one["name"] for one in json.loads(command("ls", "--json").output)] == ["other", "mine [red]"]
    assert "other" not in command("ls", "--search", "MINE").output
    assert "mine [red]" not in command("ls", "--state", "queued").output
    assert command("ls", "--search", "none like it").output == "No job is like that.\n"
    assert "mine [red]" in command("show", job_id[:8]).output
    told = command("logs", job_id).output.splitlines()
    assert [line.split()[2] for line in told] == ["created", "cancelled"]
    events = [json.loads(line) for line in command("logs", job_id, "--follow", "--json").output.splitlines()]
    assert [one["kind"] for one in events] == ["created", "cancelled"]
    assert command("retry", job_id).output == f"{job_id} is queued\n"


def test_sizes_and_times_are_read_at_a_glance():
    assert [size(one) for one in (None, 0, 999, 1000, 2_500_000, 7 * 10**15)] == [
        "–", "0 B", "999 B", "1 kB", "2.5 MB", "7e+03 TB",
    ]  # fmt: skip
    assert [precise(one) for one in (0.00123, 9.96, 61, 3700)] == ["0.0012 s", "10 s", "1 min 1 s", "1 h 1 min"]
