"""Nothing of what servers and files say reaches a terminal as a control, and nothing ends a command for its encoding."""

import json
import os
import subprocess
import sys

import pytest
import rich.console

from retrograd.cli import run
from retrograd.cli.console import Console, as_json
from retrograd.client import ApiError
from retrograd.client.printable import is_harmful, one_line, printable
from tests.retrograd.client.test_requests import JOB, serving
from tests.retrograd.terminal import Terminal, read

HOSTILE = "\x1b]0;owned\x07\x1b[2Jred\x9b31m\u202eevil\u200b\u2066\u2028\x7f\rx\U000e0041"
ROW = "small\nb4bbd69f  mine  succeeded"  # after a line end, another row
AT = "2026-01-01T00:00:00Z"
FULL = JOB | {
    "name": HOSTILE, "preset": None, "created_at": AT, "ended_at": None, "latest_outer_loss": None,
    "best_outer_loss": None, "num_hyperparameters": 3, "device": HOSTILE, "losses": {}, "certificate": None,
    "state": "failed", "error": {"code": HOSTILE, "message": HOSTILE},
}  # fmt: skip
EVENT = {"number": 1, "kind": HOSTILE, "created_at": AT, "data": {HOSTILE: HOSTILE}}
DATASET = {
    "id": HOSTILE, "name": HOSTILE, "inputs": {"shape": [3, 2], "dtype": HOSTILE}, "class_counts": [1, 2],
    "bytes": 8, "created_at": HOSTILE, "target": None,
    "table": {
        "num_columns": 1, "rows": [[HOSTILE]], "classes": [HOSTILE],
        "columns": [{"name": HOSTILE, "role": "target", "type": HOSTILE, "missing": 0, "mean": None,
                     "deviation": None, "categories": None}],
    },
}  # fmt: skip
KEY = {
    "id": HOSTILE, "prefix": HOSTILE, "name": HOSTILE, "scopes": [HOSTILE], "created_at": HOSTILE,
    "last_used_at": None, "revoked_at": HOSTILE,
}  # fmt: skip
KIND = {
    "kind": HOSTILE,
    "name": HOSTILE,
    "package": HOSTILE,
    "version": "1",
    "description": HOSTILE,
    "error": None,
}


def page(*rows):
    return 200, {"data": list(rows), "next": None}


SAID = [
    (["ls"], [page(FULL)]),
    (["show"], [page(FULL), (200, FULL)]),
    (["logs"], [page(FULL), page(EVENT)]),
    (["watch"], [page(FULL), (200, FULL)]),
    (["keys", "list"], [page(KEY)]),
    (["kinds"], [page(KIND)]),
    (["datasets", "list"], [page(DATASET)]),
    (["datasets", "show", "ds_x"], [(200, DATASET)]),
    (["ls"], [(409, {"title": HOSTILE, "code": HOSTILE, "detail": HOSTILE})]),
    (["ls"], [(422, {"code": "x", "detail": "x", "errors": [{"loc": [HOSTILE], "msg": HOSTILE}]})]),
    (["ls"], [(404, "<html>")]),
]


def harmful(text):
    return {sign for sign in text if is_harmful(sign) and sign != "\n"}


@pytest.fixture
def at(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("RETROGRAD_API_KEY", "rg_x")
    monkeypatch.chdir(tmp_path)

    def ran(answers, *arguments):
        with serving(*answers) as (url, _):
            monkeypatch.setenv("RETROGRAD_URL", url)
            status = run(arguments)
        said = capsys.readouterr()
        return status, said.out, said.err

    return ran


@pytest.mark.parametrize(("arguments", "answers"), SAID)
def test_what_a_server_says_has_no_controls(at, arguments, answers):
    _, out, said = at(answers, *arguments)
    assert "evil" in out + said or answers[-1][1] == "<html>"
    assert not harmful(out + said)
    if arguments != ["watch"]:  # which asks for other answers then
        assert not harmful("".join(at(answers, *arguments, "--json")[1:]))


def test_without_the_guard_there_would_be_controls():
    console = rich.console.Console(markup=False)
    with console.capture() as shown:
        console.print(HOSTILE)
    assert harmful(shown.get())


def test_json_says_what_was_there(at):
    status, out, _ = at([page(FULL)], "ls", "--json")
    assert (status, json.loads(out)) == (0, [FULL])
    assert "\\u202e" in out


def test_on_a_terminal_styles_are_the_only_controls(tmp_path):
    with serving(page(FULL)) as (url, _):
        variables = os.environ | {"RETROGRAD_URL": url, "RETROGRAD_API_KEY": "rg_x"}
        process, ours = Terminal(tmp_path, variables).start(f"{sys.executable} -m retrograd ls")
        told = read(ours).decode()
        os.close(ours)
        process.wait()
    assert "\x1b[31m" in told  # failed, in red: were nothing left, this would find nothing
    assert "owned" in told
    assert not {"\x07", "\u202e", "\u200b", "\x9b"} & set(told)
    assert "\x1b]" not in told
    assert "\x1b[2J" not in told


def test_a_line_end_in_a_name_makes_no_row(at):
    _, out, _ = at([page(FULL | {"name": ROW})], "ls")
    assert len(out.splitlines()) == 2
    assert "small�b4bbd69f  mine" in out


def test_a_file_of_a_users_is_shown_without_controls(at, tmp_path):
    (tmp_path / "job.json").write_text('{"name\x7f\u202e": \x1b[2J}')
    status, _, said = at([], "submit", "job.json")
    assert status == 2
    assert not harmful(said)
    *_, line, caret = said.splitlines()
    assert line[caret.index("^") :].startswith("�[2J}")


def test_the_library_says_no_controls_either():
    error = ApiError(409, HOSTILE, HOSTILE)
    assert not harmful(str(error))
    assert not harmful(error.code)
    assert "evil" in str(error)


def test_what_is_no_control_stays():
    said = "a\tb\nnaïve Δ 漢字 – … 🙂 e\u0301 \xa0"
    assert printable(said) == said
    assert one_line(said) == said.replace("\t", "�").replace("\n", "�")
    console = Console(width=80)
    with console.capture() as shown:
        console.print(said.expandtabs())
    assert shown.get() == said.expandtabs() + "\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_no_encoding_ends_a_command(tmp_path, encoding):
    job = FULL | {"name": "Δ – 漢 \ud800"}
    answers = [page(job), (200, job), (409, {"code": "x", "detail": "Δ 漢"})]
    with serving(*answers) as (url, _):
        variables = {"RETROGRAD_URL": url, "RETROGRAD_API_KEY": "rg_x", "PYTHONIOENCODING": encoding}
        for words, status in (("show", 0), ("ls", 6)):
            done = subprocess.run(
                [sys.executable, "-m", "retrograd", *words.split()],
                capture_output=True, cwd=tmp_path, env=os.environ | variables,
            )  # fmt: skip
            assert (done.returncode, b"Traceback" in done.stderr) == (status, False), done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_json_in_every_encoding(encoding):
    class Stream:
        pass

    Stream.encoding = encoding
    for document in ({"Δ": "漢 \ud800 \U0001f642"}, [HOSTILE], {"ü": "\x7f"}):
        text = as_json(document, Stream, indent=2)
        assert json.loads(text.encode(encoding)) == document
        assert not harmful(text)


def test_states_and_lengths_that_nobody_knows_end_no_command(at):
    job = FULL | {"state": "[dreaming]", "progress": {"meta_iteration": 0, "of": 0, "eta_seconds": None}}
    for arguments, answers in ((["ls"], [page(job)]), (["show"], [page(job), (200, job)])):
        status, out, _ = at(answers, *arguments)
        assert (status, "[dreaming]" in out) == (0, True)
    ended = job | {"state": "cancelled", "error": None}
    status, _, said = at([page(job), (200, job), (200, ended)], "watch")
    assert status == 1
    assert "[dreaming]: meta-iteration 0/0" in said
