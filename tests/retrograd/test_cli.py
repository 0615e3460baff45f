"""The command: what it says to people and to programs, and how it exits."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from retrograd.cli import app, progress, run
from retrograd.cli.console import Console, out
from retrograd.cli.exits import EPILOG, Exit, of_http
from retrograd.cli.overrides import Setting, override
from retrograd.cli.render import count, jobs_table, losses_table, precise, size
from tests.api.test_jobs import work
from tests.builders import document
from tests.retrograd.client.test_requests import BUSY, ID, JOB, OTHER, serving


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
        *("submit --preset x", "cancel x", "pause x", "resume x", "retry x", "delete x", "figures"),
        *("keys list", "datasets list", "programs list"),
    ],
)
def test_without_a_server_one_paragraph_names_the_remedy(retrograd, command):
    run = retrograd(*command.split())
    assert run.returncode == 3
    assert run.stdout == ""
    assert run.stderr.startswith("error: no server is known here")
    assert "`retrograd up`" in run.stderr
    assert "Traceback" not in run.stderr
    as_json = retrograd(*command.split(), "--json")
    assert as_json.returncode == 3
    assert as_json.stdout == ""
    assert json.loads(as_json.stderr)["error"]["code"] == "server_unreachable"


def test_a_server_that_does_not_answer_is_named(retrograd):
    run = retrograd("status", RETROGRAD_URL="http://127.0.0.1:9")
    assert run.returncode == 3
    assert "http://127.0.0.1:9 does not answer" in run.stderr


@pytest.mark.parametrize(
    ("variables", "status", "said"),
    [
        ({"RETROGRAD_URL": "http://host:abc"}, 3, "error: 'http://host:abc' is no address of a server"),
        (
            {"RETROGRAD_URL": "http://127.0.0.1:9", "RETROGRAD_API_KEY": "rg_…"},
            5,
            "error: the API key holds other",
        ),
    ],
)
def test_an_address_or_a_key_that_can_be_none_is_one_paragraph(retrograd, variables, status, said):
    run = retrograd("ls", **variables)
    assert (run.returncode, run.stderr.count("\n")) == (status, 1)
    assert run.stderr.startswith(said)


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
    as_json = retrograd(*command.split(), "--json")
    assert as_json.returncode == 2
    assert json.loads(as_json.stderr)["error"]["code"] == "usage"


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
    settings = ["meta.num_iterations=3", " name = two words ", "engine=auto", "hyperparameters.l2.per=[]"]
    changed = override(spec, map(Setting.read, settings))
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
        override({"name": "a"}, [Setting.read(setting)])


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
    assert refused.returncode == 6
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


# Exit statuses


@pytest.fixture
def at(url, key, monkeypatch, tmp_path, capsys):
    """The command at a real API, in this process: status, standard output, standard error."""
    monkeypatch.setenv("RETROGRAD_URL", url)
    monkeypatch.setenv("RETROGRAD_API_KEY", key)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def ran(*arguments):
        status = run(arguments)
        said = capsys.readouterr()
        return status, said.out, said.err

    return ran


NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (["show", NOBODY], Exit.NOT_FOUND, "unknown_job"),
        (["show", "zzz"], Exit.NOT_FOUND, "not_found"),
        (["submit", "--preset", "nothing"], Exit.NOT_FOUND, "not_found"),
        (["submit", "--preset", "nothing", "-s", "name=x"], Exit.NOT_FOUND, "not_found"),
        (["datasets", "show", "ds_000000000000000000000000"], Exit.NOT_FOUND, "unknown_dataset"),
        (["keys", "revoke", "rg_nobody"], Exit.NOT_FOUND, "not_found"),
        (["submit", "nowhere.json"], Exit.REFUSED, "invalid_spec"),
        (["datasets", "show", "houses"], Exit.NOT_FOUND, "not_found"),
        (["datasets", "delete", "houses"], Exit.NOT_FOUND, "not_found"),
        (["programs", "show", "mine"], Exit.NOT_FOUND, "not_found"),
        (["show", "x" * 36], Exit.NOT_FOUND, "not_found"),
        (["submit", "--preset", "digits-schedules", "-s", "training.num_steps=0"], Exit.REFUSED, "invalid_spec"),
        (["download", "latest"], Exit.CONFLICT, "nothing_learned"),
        (["resume", "latest"], Exit.CONFLICT, "state_conflict"),
        (["delete", "latest"], Exit.CONFLICT, "state_conflict"),
        (["watch", "cancelled"], Exit.FAILED, "cancelled"),
    ],
)
def test_the_exit_status_says_what_kind_of_failure_it_was(at, client, arguments, status, code):
    cancelled = client.post("/v1/jobs", json=document()).json()["id"]
    client.post(f"/v1/jobs/{cancelled}/cancel")
    client.post("/v1/jobs", json=document())
    arguments = [cancelled if word == "cancelled" else word for word in arguments]
    found, _, said = at(*arguments)
    assert found == status
    assert "error: " in said
    found, out, said = at(*arguments, "--json")
    assert found == status
    assert json.loads(said)["error"]["code"].endswith(code)
    assert (out == "") != (arguments[0] in ("watch", "resume", "delete"))  # which say what they did nevertheless


def test_keys_that_may_not_are_told_apart_from_what_is_not_there(at, client, monkeypatch):
    reader = client.post("/v1/keys", json={"name": "reader", "scopes": ["read"]}).json()["key"]
    monkeypatch.setenv("RETROGRAD_API_KEY", reader)
    status, _, said = at("submit", "--preset", "digits-schedules", "--json")
    assert (status, json.loads(said)["error"]["code"]) == (Exit.NOT_ALLOWED, "forbidden")
    monkeypatch.setenv("RETROGRAD_API_KEY", "rg_" + "x" * 43)
    status, _, said = at("ls", "--json")
    assert (status, json.loads(said)["error"]["code"]) == (Exit.NOT_ALLOWED, "unauthorized")


def test_remedies_are_commands_and_not_requests(at, monkeypatch):
    assert (
        "did you mean 'digits-schedules'? `retrograd presets` lists them"
        in at("submit", "--preset", "digit-schedules")[2]
    )
    assert "`retrograd ls` lists those there are" in at("show", NOBODY)[2]
    monkeypatch.setenv("RETROGRAD_API_KEY", "rg_" + "x" * 43)
    assert "set RETROGRAD_API_KEY" in at("ls")[2]


def test_mistaken_names_are_told_in_a_sentence(at):
    assert (
        at("datasets", "show", "houses")[2]
        == "error: there is no data set 'houses'; `retrograd datasets list` shows those there are\n"
    )
    assert "did you mean --preset digits-schedules?" in at("submit", "digits-schedules")[2]
    assert "nosuch.json: cannot be read: No such file or directory" in at("submit", "nosuch.json")[2]


@pytest.mark.parametrize("words", ["-h", "ls -h", "datasets -h", "datasets show -h", "submit -h"])
def test_help_has_a_short_name(at, words):
    status, said, _ = at(*words.split())
    assert (status, said) == at(*words.replace("-h", "--help").split())[:2]
    assert "Usage: " in said


def test_one_is_not_many():
    assert [count(number, "seed") for number in (0, 1, 2)] == ["0 seeds", "1 seed", "2 seeds"]


@pytest.mark.parametrize("width", [60, 80])
def test_states_are_whole_where_room_is_scarce(width):
    job = JOB | {
        "name": "a name that is longer than there is room for", "state": "succeeded", "latest_outer_loss": 0.123456,
        "best_outer_loss": 0.123456, "progress": {"meta_iteration": 100, "of": 100, "eta_seconds": None},
    }  # fmt: skip
    console = Console(width=width)
    with console.capture() as shown:
        console.print(jobs_table([job]))
    (row,) = (line for line in shown.get().splitlines() if line.startswith(ID[:8]))
    assert len(row) <= width
    assert [word in row.split() for word in ("succeeded", "100/100")] == [True, True]


def test_what_stands_still_tells_for_how_long(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    tell = progress._Teller()
    news = []
    stages = (
        ("queued", 0, 5),
        ("running", 0, 1),
        ("running", 0, 31),
        ("running", 1, 40),
        ("running", 4, 3),
        ("running", 4, 9),
    )
    for state, done, seconds in stages:
        job = JOB | {
            "state": state, "progress": {"meta_iteration": done, "of": 4, "eta_seconds": None}, "losses": {},
            "latest_outer_loss": None, "best_outer_loss": None, "spec": {"meta": {"warm_start": None}},
        }  # fmt: skip
        tell.news(job, timed=True)
        now[0] += seconds
        news.append(tell.news(job, timed=True).partition(" · ")[2])
        assert " s" not in tell.news(job)  # a line that stays tells no time
    assert news == ["5 s", "", "compiling · 32 s", "", "evaluating · 3 s", "evaluating · 12 s"]


def test_every_answer_has_a_status():
    assert {status: of_http(status) for status in (400, 413, 415, 422)} == dict.fromkeys(
        (400, 413, 415, 422), Exit.REFUSED
    )
    assert (of_http(500), of_http(503), of_http(429), of_http(410)) == (1, 3, 6, 4)


def test_help_and_the_guide_tell_the_same_statuses(at):
    _, said, _ = at("--help")
    assert " ".join(EPILOG.split()) in " ".join(said.split())
    guide = (Path(__file__).parents[2] / "docs/how-to/use-the-command-line.md").read_text()
    for status in Exit:
        assert f"| {status} |" in guide
        assert f" {status} " in f" {EPILOG} "


# For programs


def test_every_command_with_an_answer_speaks_json():
    """And all commands are known here: a new one says what it does with --json."""

    def commands(group, name=""):
        for inner in group.registered_commands:
            yield f"{name}{inner.name or inner.callback.__name__.replace('_', '-')}", inner.callback
        for inner in group.registered_groups:
            yield from commands(inner.typer_instance, f"{inner.typer_instance.info.name} ")

    silent = {name for name, callback in commands(app) if "as_json" not in callback.__annotations__}
    assert silent == {"completion"}


def test_changes_are_told_as_a_list_of_jobs(at, client):
    ids = [client.post("/v1/jobs", json=document()).json()["id"] for _ in range(2)]
    for words, state in (
        (["pause"], "paused"),
        (["resume"], "queued"),
        (["cancel", "--yes"], "cancelled"),
        (["retry"], "queued"),
        (["cancel"], "cancelled"),
        (["delete"], "deleted"),
    ):
        status, out, said = at(*words, *ids, "--json")
        assert (status, said) == (0, "")
        assert [(one["id"], one["state"]) for one in json.loads(out)] == [(one, state) for one in ids]
    assert client.get("/v1/jobs").json()["data"] == []


def test_a_job_that_refuses_does_not_hinder_the_others(at, client):
    ids = [client.post("/v1/jobs", json=document()).json()["id"] for _ in range(3)]
    client.post(f"/v1/jobs/{ids[1]}/cancel")
    status, out, said = at("cancel", *ids, "latest", ids[0][:8])
    assert status == Exit.CONFLICT
    assert out.splitlines() == [f"{ids[0]} is cancelled", f"{ids[2]} is cancelled"]
    assert said.startswith(f"error: {ids[1][:8]}: a job that is cancelled cannot be cancelled")


def test_what_was_done_is_told_though_the_server_went_away(at, monkeypatch):
    jobs = [JOB | {"id": one} for one in (ID, OTHER)]
    done = jobs[0] | {"state": "cancelled"}
    with serving(*[(200, job) for job in jobs], (202, done), None) as (url, _):
        monkeypatch.setenv("RETROGRAD_URL", url)
        status, out, said = at("cancel", "--yes", *[job["id"] for job in jobs], "--json")
    assert (status, json.loads(out)) == (Exit.UNREACHABLE, [done])
    assert json.loads(said)["error"]["code"] == "server_unreachable"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_logs_that_are_interrupted_have_not_ended(url, key, client, number):
    job_id = client.post("/v1/jobs", json=document()).json()["id"]
    following = subprocess.Popen(
        [sys.executable, "-m", "retrograd", "logs", job_id, "--follow", "--json"],
        stdout=subprocess.PIPE, env=os.environ | {"RETROGRAD_URL": url, "RETROGRAD_API_KEY": key},
    )  # fmt: skip
    with following:
        assert json.loads(following.stdout.readline())["kind"] == "created"
        following.send_signal(number)
    assert following.returncode == Exit.INTERRUPTED


def test_what_users_write_is_no_markup(at, client, sessions, tmp_path):
    job = client.post("/v1/jobs", json=document()).json()
    work(sessions, job)
    (tmp_path / "runs[old]").mkdir()
    path = "runs[old]/[b] :x:.json"
    assert at("download", job["id"], "-o", path)[1].startswith(f"Saved {path} (")
    job = json.loads(at("show", job["id"], "--json")[1])
    job["losses"]["best"]["measures"] = {"acc[val]": 0.5, "[/b]": 0.5}
    with out.capture() as shown:
        out.print(losses_table(job))
    assert [name in shown.get() for name in ("acc[val]", "[/b]")] == [True, True]


def test_a_name_that_is_nobodys_changes_nothing(at, client):
    job_id = client.post("/v1/jobs", json=document()).json()["id"]
    status, _, _ = at("cancel", job_id, "zzz")
    assert status == Exit.NOT_FOUND
    assert client.get(f"/v1/jobs/{job_id}").json()["state"] == "queued"


def test_watch_tells_what_happens_line_by_line_and_the_job_at_last(at, client):
    job_id = client.post("/v1/jobs", json=document()).json()["id"]
    client.post(f"/v1/jobs/{job_id}/cancel")
    status, out, said = at("watch", job_id, "--json")
    *events, job = map(json.loads, out.splitlines())
    assert [one["kind"] for one in events] == ["created", "cancelled"]
    assert (job["id"], job["state"], status) == (job_id, "cancelled", Exit.FAILED)
    assert json.loads(said)["error"] == {
        "code": "cancelled", "message": f"job {job_id} cancelled", "errors": []
    }  # fmt: skip


def test_all_jobs_are_listed_page_by_page(at, client):
    for number in range(105):
        client.post("/v1/jobs", json=document({"name": f"job {number}"}))
    assert len(json.loads(at("ls", "--json")[1])) == 20
    assert len(json.loads(at("ls", "--json", "--limit", "103")[1])) == 103
    names = [one["name"] for one in json.loads(at("ls", "--json", "--all")[1])]
    assert names == [f"job {number}" for number in reversed(range(105))]
    assert at("cancel", "latest")[0] == 0
    assert [one["name"] for one in json.loads(at("ls", "--all", "--state", "cancelled", "--json")[1])] == [
        "job 104"
    ]


@pytest.mark.parametrize("command", ["presets --json", "presets", "ls --help", "--help"])
def test_a_reader_that_goes_away_is_no_error(url, key, command):
    script = f"{sys.executable} -m retrograd {command} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True,
        env=os.environ | {"RETROGRAD_URL": url, "RETROGRAD_API_KEY": key},
    )  # fmt: skip
    assert done.stderr == ""


# Questions


def answered(terminal, url, key, folder, command, answer):
    environment = os.environ | {"RETROGRAD_URL": url, "RETROGRAD_API_KEY": key}
    return terminal(folder, environment).run(f"{sys.executable} -m retrograd {command}", answer)


def test_a_terminal_is_asked_before_much_is_lost(url, key, client, tmp_path):
    from tests.retrograd.terminal import Terminal

    ids = [client.post("/v1/jobs", json=document()).json()["id"] for _ in range(2)]
    said, status = answered(Terminal, url, key, tmp_path, f"cancel {' '.join(ids)}", "n\n")
    assert ("Cancel 2 jobs? [y/N]" in said, "Nothing was changed." in said, status) == (True, True, 1)
    assert client.get(f"/v1/jobs/{ids[0]}").json()["state"] == "queued"
    said, status = answered(Terminal, url, key, tmp_path, f"cancel {ids[0]}", "")  # one job: no question
    assert (said, status) == (f"{ids[0]} is cancelled", 0)
    said, status = answered(Terminal, url, key, tmp_path, f"delete {ids[0]}", "y\n")
    assert "is deleted" in said
    assert client.get(f"/v1/jobs/{ids[0]}").status_code == 404
    said, status = answered(Terminal, url, key, tmp_path, f"delete {ids[1]}", "\x04")  # the end of input
    assert status == Exit.INTERRUPTED


# Completion


@pytest.fixture
def completed(tmp_path):
    """What bash is told to complete a line by."""

    def complete(line, **variables):
        words = line.split(" ")
        environment = {name: one for name, one in os.environ.items() if not name.startswith("RETROGRAD_")}
        asked = {
            "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_RETROGRAD_COMPLETE": "complete_bash",
        }  # fmt: skip
        program = "import sys; sys.argv[0] = 'retrograd'; from retrograd.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path,
            env=environment | asked | variables,
        )  # fmt: skip
        assert done.stderr == ""
        return done.stdout.split()

    return complete


def test_jobs_presets_states_and_fields_are_completed(completed, client, url, key):
    variables = {"RETROGRAD_URL": url, "RETROGRAD_API_KEY": key}
    job_id = client.post("/v1/jobs", json=document()).json()["id"]
    assert completed("retrograd show ", **variables) == ["latest", job_id[:8]]
    assert completed(f"retrograd cancel {job_id[:10]}", **variables) == [job_id]
    assert completed("retrograd submit --preset digits-s") == ["digits-schedules"]
    assert completed("retrograd ls --state ca") == ["cancelled"]
    assert completed("retrograd submit --preset digits-schedules -s meta.num_it") == ["meta.num_iterations="]


def test_without_a_server_completion_is_silent(completed):
    assert completed("retrograd show ", RETROGRAD_URL="http://127.0.0.1:9") == ["latest"]
    assert completed("retrograd datasets show ") == []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.listen()
        assert completed("retrograd show ", RETROGRAD_URL=f"http://127.0.0.1:{silent.getsockname()[1]}") == [
            "latest"
        ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_names_of_jobs_are_no_words_of_a_shell(client, url, key, shell, tmp_path):
    client.post("/v1/jobs", json=document({"name": "my \\$(touch x) \\`touch x` '\"; touch x; [red] & | <x"}))
    line = "retrograd show "
    asked = {
        "COMP_WORDS": line, "COMP_CWORD": "2", "_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_RETROGRAD_COMPLETE": f"complete_{shell}", "RETROGRAD_URL": url, "RETROGRAD_API_KEY": key,
    }  # fmt: skip
    program = "import sys; sys.argv[0] = 'retrograd'; from retrograd.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=os.environ | asked
    )
    assert ("touch x" in done.stdout) == (shell != "bash"), done.stdout  # which shows no names
    assert not re.search(r"[\\$`;&|<>]", done.stdout)


def test_nobody_waits_for_a_completion(completed):
    with serving(*[(503, BUSY, {"Retry-After": "60"})] * 9) as (url, seen):
        began = time.monotonic()
        assert completed("retrograd show ", RETROGRAD_URL=url) == ["latest"]
        assert time.monotonic() - began < 30  # most of which is Python's start
    assert len(seen) == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_of_their_shells(at, shell, tmp_path):
    status, script, _ = at("completion", shell)
    assert status == 0
    assert f"complete_{shell}" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)
