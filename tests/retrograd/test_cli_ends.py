"""However a command ends, nobody sees a traceback: what nobody foresaw, closed streams, interrupts, depths."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from retrograd.cli import changes, run
from retrograd.cli.exits import Exit
from tests.retrograd.client.test_requests import JOB, serving
from tests.retrograd.test_cli_terminal import page

BARE = {"id": JOB["id"], "name": "x", "state": "failed", "progress": JOB["progress"]}  # of another version, say


@pytest.fixture
def ls(monkeypatch, capsys):
    """`retrograd ls` at a server whose jobs lack what this version shows."""
    monkeypatch.setenv("RETROGRAD_API_KEY", "rg_x")
    monkeypatch.delenv("RETROGRAD_TRACEBACK", raising=False)

    def ran(*more):
        with serving(page(BARE)) as (url, _):
            monkeypatch.setenv("RETROGRAD_URL", url)
            status = run(["ls", *more])
        return status, *capsys.readouterr()

    return ran


def test_what_nobody_foresaw_is_one_paragraph(ls):
    status, out, said = ls()
    assert (status, out, said.count("\n")) == (Exit.FAILED, "", 1)
    assert said.startswith("error: KeyError: ")
    assert "RETROGRAD_TRACEBACK=1 shows where it comes from" in said


def test_programs_are_told_of_it_in_json(monkeypatch, capsys):
    def fail(folder):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(changes, "connect", fail)
    assert run(["pause", "x", "--json"]) == Exit.FAILED
    error = json.loads(capsys.readouterr().err)["error"]
    assert (error["code"], error["message"].partition(";")[0]) == ("unforeseen", "RuntimeError: two lines")


def test_with_the_variable_it_is_raised(ls, monkeypatch):
    monkeypatch.setenv("RETROGRAD_TRACEBACK", "1")
    with pytest.raises(KeyError):
        ls()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_may_be_closed(tmp_path, closed):
    page_of_none = page()
    with serving(*[page_of_none] * 2) as (url, _):
        line = f"{shlex.quote(sys.executable)} -m retrograd ls --json {closed}"
        done = subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, cwd=tmp_path,
            env=os.environ | {"RETROGRAD_URL": url, "RETROGRAD_API_KEY": "rg_x"},
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("" if " >&-" in f" {closed}" else "[]\n")


def test_a_full_disk_is_one_paragraph(tmp_path):
    with serving(page()) as (url, _):
        done = subprocess.run(
            ["bash", "-c", f"{shlex.quote(sys.executable)} -m retrograd ls > /dev/full"],
            capture_output=True, text=True, cwd=tmp_path,
            env=os.environ | {"RETROGRAD_URL": url, "RETROGRAD_API_KEY": "rg_x"},
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "error: [Errno 28] No space left on device\n")


def test_an_interrupt_while_all_is_loaded_is_one():
    program = "import os, signal, sys; from retrograd.__main__ import main\n"
    program += "class Loading:\n"
    program += "    def find_spec(self, name, *more):\n"
    program += "        if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\n"
    program += "sys.meta_path.insert(0, Loading()); sys.argv = ['retrograd', 'ls']; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_way_to_the_command_is_light():
    program = "import sys, retrograd.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"typer", "httpx", "rich", "importlib.metadata"} & set(done.stdout.split())


@pytest.mark.parametrize("depth", [101, 900, 100_000])
def test_a_job_that_is_nested_without_end_is_refused_in_the_same_words(tmp_path, monkeypatch, capsys, depth):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.json").write_text('{"a": ' + "[" * depth + "]" * depth + "}")
    assert run(["submit", "job.json"]) == Exit.REFUSED
    said = capsys.readouterr().err
    assert said.splitlines()[1:] == [
        "job.json: cannot be read: it is nested more than 100 levels deep; a job has a few"
    ]


def test_a_setting_that_is_nested_without_end_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.json").write_text("{}")
    monkeypatch.setenv("RETROGRAD_URL", "http://127.0.0.1:9")
    assert run(["submit", "job.json", "-s", f"a={'[' * 900}{']' * 900}"]) == Exit.REFUSED
    assert "nested more than 100 levels deep" in capsys.readouterr().err
