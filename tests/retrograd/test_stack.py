"""The whole service, started as a user starts it and used through its HTTP API and its command."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from retrograd.client import ApiError, Client
from retrograd.home import Home
from retrograd.local.guarded import ComponentFailed
from retrograd.local.stack import AlreadyRunning, PortTaken, Stack

PRESET = "digits-schedules"
SMALL = ["meta.num_iterations=3", "meta.evaluation_seeds=1", "training.num_steps=5", "problem.model.hidden=[10]"]
SET_SMALL = [word for setting in SMALL for word in ("-s", setting)]
GONE_WITHIN = 60.0


def environment(home: Path | None = None) -> dict[str, str]:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RETROGRAD_")}
    return bare | ({"RETROGRAD_HOME": str(home)} if home else {})


def start_up(home: Path) -> tuple[subprocess.Popen[str], str]:
    """`retrograd up`, and what it announced."""
    up = subprocess.Popen(
        [sys.executable, "-m", "retrograd", "up", "--port", "0"],
        stdout=subprocess.PIPE, text=True, env=environment(home) | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    said = ""
    for line in up.stdout:
        said += line
        if "Ctrl-C" in line:
            return up, said
    raise AssertionError(f"up ended with {up.wait()} after saying: {said}")


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=GONE_WITHIN)
    assert not alive


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETROGRAD_HEARTBEAT_SECONDS", "0.5")  # how soon a running job hears that it is cancelled
        with Stack(Home(tmp_path_factory.mktemp("stack") / "a home"), port=0) as stack:
            yield stack


@pytest.fixture
def retrograd(stack, tmp_path):
    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "retrograd", *arguments],
            input=stdin, capture_output=True, text=True, cwd=tmp_path, env=environment(stack.home.path),
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def learned(stack):
    """A small job that has succeeded."""
    run = subprocess.run(
        [sys.executable, "-m", "retrograd", "submit", "--watch", "--json", "--preset", PRESET, *SET_SMALL],
        capture_output=True, text=True, env=environment(stack.home.path),
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    return json.loads(run.stdout)


def test_the_folder_is_private_and_says_where_the_api_is(stack):
    home = stack.home
    assert home.path.stat().st_mode & 0o777 == 0o700
    assert home.url == stack.url
    for path in (home.api_key_file, *(home.path / "logs").iterdir()):
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert {path.name for path in (home.path / "logs").glob("*.log")} == {
        f"{name}.log" for name in ("postgres", "valkey", "migrations", "api", "worker", "janitor")
    }


def test_no_secret_is_in_an_argument_or_a_log(stack):
    password = (stack.home.path / "postgres/password").read_text()
    texts = [" ".join(process.cmdline()) for process in stack.processes()]
    texts += [path.read_text() for path in (stack.home.path / "logs").iterdir()]
    for secret in (stack.api_key, password):
        assert not any(secret in text for text in texts)


def test_everything_listens_on_loopback_only(stack):
    listening = {
        connection.laddr.ip
        for process in stack.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_a_job_learns_and_is_downloaded(learned, retrograd, tmp_path):
    assert learned["state"] == "succeeded"
    run = retrograd("download", learned["id"], "-o", "result.json")
    assert run.returncode == 0, run.stderr
    document = json.loads((tmp_path / "result.json").read_text())
    assert np.shape(document["hyperparameters"]["step_size"]["values"]) == (5, 4)
    assert document["losses"]["best"]["outer"] <= document["losses"]["initial"]["outer"]
    assert document["certificate"]["exact"]
    assert retrograd("download", learned["id"][:8], "--format", "npz", "--iteration", "last").returncode == 0
    with np.load(tmp_path / f"{learned['id']}.npz") as arrays:
        assert arrays["momentum"].shape == (5, 4)


def test_status_watch_and_presets_show_it(learned, retrograd):
    table = retrograd("status").stdout
    assert learned["id"][:8] in table
    assert "succeeded" in table
    details = retrograd("status", "latest").stdout
    assert learned["id"] in details
    assert "Certificate: exact, 0 mismatched bits" in " ".join(details.split())
    assert json.loads(retrograd("status", learned["id"], "--json").stdout)["id"] == learned["id"]
    watched = retrograd("watch", learned["id"][:6])
    assert watched.returncode == 0
    assert "succeeded: meta-iteration 3/3" in watched.stderr
    assert "before" in watched.stdout
    told = [json.loads(line) for line in retrograd("watch", learned["id"], "--json").stdout.splitlines()]
    assert [one["kind"] for one in told[:-1]].count("iteration") == 3
    assert told[-1] == learned
    assert PRESET in retrograd("presets").stdout


def test_jobs_come_from_files_and_standard_input_and_can_be_cancelled(stack, retrograd, tmp_path):
    with Client(home=stack.home) as client:
        spec = client.presets.get(PRESET) | {"name": "by hand"}
    (tmp_path / "job.json").write_text(json.dumps(spec))
    first = json.loads(retrograd("submit", "job.json", "--json").stdout)
    second = json.loads(retrograd("submit", "-", "-s", "name=piped", "--json", stdin=json.dumps(spec)).stdout)
    assert (first["name"], second["name"]) == ("by hand", "piped")
    for job in (second, first):
        assert retrograd("cancel", job["id"]).returncode == 0
    watched = retrograd("watch", first["id"])
    assert watched.returncode == 1
    assert "cancelled" in watched.stderr


def test_ctrl_c_stops_watching_but_not_the_job(stack, retrograd, tmp_path):
    spec = ["--preset", PRESET, "-s", "meta.num_iterations=10000", "-s", "training.num_steps=5"]
    job = json.loads(retrograd("submit", *spec, "--json").stdout)
    watch = subprocess.Popen(
        [sys.executable, "-m", "retrograd", "watch", job["id"]],
        stderr=subprocess.PIPE, text=True, env=environment(stack.home.path),
    )  # fmt: skip
    with watch:
        assert "meta-iteration" in watch.stderr.readline()
        watch.send_signal(signal.SIGINT)
        assert "the job goes on" in watch.stderr.read()
    assert watch.returncode == 130
    with Client(home=stack.home) as client:
        watched = client.jobs.get(job["id"])
        assert watched.state in ("queued", "running")
        assert watched.cancel().wait(GONE_WITHIN).state == "cancelled"


def test_figures_are_saved_and_named_for_programs(learned, retrograd, tmp_path):
    saved = json.loads(retrograd("figures", learned["id"], "-o", "drawn", "--format", "svg", "--json").stdout)
    assert {one["path"] for one in saved} == {
        str(path.relative_to(tmp_path)) for path in (tmp_path / "drawn").iterdir()
    }
    assert {"losses", "schedules"} <= {one["name"] for one in saved}
    (tmp_path / "results").mkdir()
    told = json.loads(retrograd("download", learned["id"], "-o", "results", "--json").stdout)
    path = tmp_path / "results" / f"{learned['id']}.json"
    assert told == {"path": str(path.relative_to(tmp_path)), "bytes": path.stat().st_size}
    assert retrograd("curves", learned["id"], "-o", "curves.csv").returncode == 0
    header, *rows = (tmp_path / "curves.csv").read_text().splitlines()
    assert header.startswith("iteration,outer_loss,")
    assert [row.split(",")[0] for row in rows] == ["0", "1", "2"]


def test_a_bad_job_is_refused_with_the_name_of_the_field(retrograd):
    run = retrograd("submit", "--preset", PRESET, "-s", "training.num_steps=0")
    assert run.returncode == 2
    assert "training.num_steps" in run.stderr
    unknown = retrograd("submit", "--preset", "nothing")
    assert unknown.returncode == 4
    assert "nothing" in unknown.stderr


def test_a_wrong_key_is_refused(stack):
    with Client(stack.url, "rg_" + "x" * 43) as client, pytest.raises(ApiError) as caught:
        client.jobs.list()
    assert caught.value.status == 401


def test_doctor_sees_the_running_server(stack, retrograd):
    run = retrograd("doctor")
    assert run.returncode == 0, run.stdout
    assert f"{stack.url} answers and accepts the key" in " ".join(run.stdout.split())


def test_a_folder_takes_one_stack_and_a_port_one_server(stack, tmp_path):
    with pytest.raises(AlreadyRunning, match=f"process {os.getpid()}, at {re.escape(stack.url)}"):
        Stack(stack.home, port=0).start()
    with pytest.raises(PortTaken, match=str(stack.port)):
        Stack(Home(tmp_path), port=stack.port).start()
    stack.check()
    assert not (tmp_path / "postgres").exists()


def test_up_stops_cleanly_on_sigterm_and_dies_wholly_on_kill_9_and_starts_again(tmp_path):
    home = tmp_path / "home"
    up, said = start_up(home)
    with up:
        url = Home(home).url
        assert url in said
        assert "retrograd submit" in said
        processes = psutil.Process(up.pid).children(recursive=True)
        up.kill()
        assert_gone(processes)
    up, said = start_up(home)  # the lock, the pid files and the stale address do not hinder it
    with up:
        assert Home(home).url in said
        with Client(home=Home(home)) as client:
            assert client.jobs.list() == []
        processes = psutil.Process(up.pid).children(recursive=True)
        assert len(processes) > 10
        up.send_signal(signal.SIGTERM)
        assert up.wait(GONE_WITHIN) == 0
        assert not any(process.is_running() for process in processes)
    assert Home(home).url is None


def test_a_component_that_dies_takes_the_stack_down_by_name(tmp_path):
    with Stack(Home(tmp_path), port=0) as stack:
        processes = stack.processes()
        command = [sys.executable, "-m", "worker.janitor"]
        janitor = next(process for process in processes if process.cmdline() == command)
        janitor.kill()
        with pytest.raises(ComponentFailed, match=r"janitor ended unexpectedly with status 137"):
            stack.check(GONE_WITHIN)
    assert not any(process.is_running() for process in processes)


def test_demo_shows_what_was_learned_and_leaves_no_process(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "retrograd", "demo", *SET_SMALL],
        capture_output=True, text=True, cwd=tmp_path, env=environment(),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    said = " ".join(run.stdout.split())
    assert re.search(r"outer [\d.]+ [\d.]+", said)
    assert "Certificate: exact, 0 mismatched bits" in said
    assert "no process is left" in said
    document = json.loads((tmp_path / "retrograd-demo.json").read_text())
    assert document["certificate"]["exact"]
    assert [path.name for path in tmp_path.iterdir()] == ["retrograd-demo.json"]
