"""Programs by the Python client and by the command."""

import json
from functools import partial

import pytest

from api import checks
from retrograd.client import ApiError, Client
from tests.programs import making


@pytest.fixture(autouse=True)
def _stub(monkeypatch):
    monkeypatch.setattr(checks, "_CHECK", "tests.programs.checked")


@pytest.fixture
def retrograd(command):
    return partial(command, "programs")


def test_files_and_bytes_are_sent_by_the_client(url, key, tmp_path):
    path = tmp_path / "net.zip"
    path.write_bytes(making.program())
    with Client(url, key) as client:
        sent = [client.programs.upload(program, "mine") for program in (path, str(path), making.program())]
        assert [one["id"] for one in sent] == [sent[0]["id"]] * 3
        assert client.programs.get(sent[0]["id"]) == sent[0]
        assert [one["id"] for one in client.programs.list()] == [sent[0]["id"]]
        client.programs.delete(sent[0]["id"])
        assert client.programs.list() == []
        with pytest.raises(ApiError, match="calls the host"):
            client.programs.upload(making.program("refuse"), "mine")
        with pytest.raises(ApiError, match="GET /v1/programs lists those there are"):
            client.programs.get(sent[0]["id"])


def test_the_command_sends_lists_shows_and_deletes(retrograd, tmp_path):
    assert "No programs yet" in retrograd("list").stdout
    (tmp_path / "net.zip").write_bytes(making.program())
    run = retrograd("upload", "net.zip")
    assert run.exit_code == 0, run.output
    program_id = run.stdout.split()[0]
    assert "5 steps; learns log_step, momentum, penalties" in run.stdout
    assert f'"problem": {{"kind": "program", "id": "{program_id}", "data": {{"train": "ds_…"}}}}' in run.stdout
    listed = retrograd("list").stdout
    assert all(word in listed for word in (program_id, "net", f"{len(making.program()):,}"))
    [row] = json.loads(retrograd("list", "--json").stdout)
    assert (row["id"], row["name"]) == (program_id, "net")
    shown = retrograd("show", program_id).stdout
    for words in (
        "weights: 16 × 3 float32",
        "momentum: one float64",
        "train: inputs: 30 × 16 float32",
        "JAX 0.10.2",
    ):
        assert words in shown
    assert json.loads(retrograd("show", program_id, "--json").stdout)["num_steps"] == 5
    assert retrograd("delete", program_id).exit_code == 0
    assert "No programs yet" in retrograd("list").stdout


def test_what_is_refused_is_said_in_one_paragraph(retrograd, tmp_path):
    (tmp_path / "not.zip").write_text("no zip")
    assert "is no zip archive" in str(retrograd("upload", "not.zip").exception)
    assert isinstance(retrograd("upload", "missing.zip").exception, FileNotFoundError)
