"""What is saved is whole, of the form its name says, and never written through what others have put there."""

import os
import stat
import subprocess
import sys
import threading

import pytest

from retrograd.client import files
from retrograd.client.files import format_of, stays, whole
from tests.retrograd.client.test_requests import JOB, serving


@pytest.fixture
def command(tmp_path):
    """The command in a process of its own, whose standard output is a real one."""

    def run(url, *arguments, **options):
        return subprocess.run(
            [sys.executable, "-m", "retrograd", *arguments], capture_output="stdout" not in options, text=True,
            cwd=tmp_path, env=os.environ | {"RETROGRAD_URL": url, "RETROGRAD_API_KEY": "rg_x"}, **options,
        )  # fmt: skip

    return run


def test_a_pipe_is_written_to_and_stays_one(connect, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with serving((200, JOB), (200, "the values")) as (url, _):
        connect(url).jobs.get(JOB["id"]).download(pipe)
    reader.join(10)
    assert read == ["the values"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_link_is_replaced_and_what_it_leads_to_is_not_touched(connect, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.write_text("others'")
    (tmp_path / "result.json").symlink_to(other)
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "foreseen")
    with serving((200, JOB), (200, "mine"), (200, "again")) as (url, _):
        job = connect(url).jobs.get(JOB["id"])
        assert job.download(tmp_path / "result.json").read_text() == "mine"
        (tmp_path / ".foreseen.unfinished").symlink_to(other)
        with pytest.raises(FileExistsError):
            job.download(tmp_path / "result.json")
    assert other.read_text() == "others'"


def test_who_may_read_a_file_is_for_the_umask_to_say(tmp_path):
    before = os.umask(0o027)
    try:
        with whole(tmp_path / "file") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_what_is_not_finished_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(TypeError), whole(tmp_path / "file") as file:
        file.writelines([b"half", "no bytes"])
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
    with pytest.raises(IsADirectoryError), whole(tmp_path):
        pass


def test_devices_stay(tmp_path):
    assert stays(files.Path("/dev/null"))
    assert stays(files.Path("/dev/stdout"))  # even where it leads to a file
    assert not stays(tmp_path / "file")


def test_the_name_of_a_file_says_its_form():
    known = ("json", "npz")
    found = [format_of(path, None, known) for path in ("a.npz", "a.NPZ", "a.json", "a", "a.bin")]
    assert found == ["npz", "npz", "json", "json", "json"]
    assert format_of("a", "npz", known) == format_of("a.npz", "npz", known) == "npz"
    with pytest.raises(ValueError, match=r"a\.npz would hold json by a name that ends in \.npz"):
        format_of("a.npz", "json", known)


def test_the_client_asks_for_the_form_that_the_name_says(connect, tmp_path):
    with serving((200, JOB), (200, ""), (200, "")) as (url, seen):
        job = connect(url).jobs.get(JOB["id"])
        job.download(tmp_path / "a.npz")
        job.download_curves(tmp_path / "a.parquet")
        with pytest.raises(ValueError, match="rename it, or leave format out"):
            job.download(tmp_path / "a.npz", format="json")
    assert [path.rpartition("format=")[2] for _, path, _ in seen[1:]] == ["npz", "parquet"]


def test_the_command_saves_where_it_is_told(command, tmp_path):
    page = (200, {"data": [JOB], "next": None})
    with serving(*[page, (200, "values")] * 2) as (url, seen):
        done = command(url, "download", "-o", "a/new/")
        assert (done.returncode, done.stderr) == (0, "")
        assert (tmp_path / "a/new" / f"{JOB['id']}.json").read_text() == "values"
        done = command(url, "download", "-o", "b.npz")
        assert done.stdout == "Saved b.npz (6 bytes)\n"
    assert seen[-1][1].endswith("format=npz")


@pytest.mark.parametrize("output", ["-", "/dev/stdout"])
def test_standard_output_has_the_file_and_nothing_else(command, tmp_path, output):
    page = (200, {"data": [JOB], "next": None})
    with serving(*[page, (200, "values")] * 2) as (url, _):
        done = command(url, "download", "-o", output)
        assert (done.stdout, done.stderr, done.returncode) == ("values", "", 0)
        with (tmp_path / "redirected").open("w") as file:
            assert command(url, "curves", "-o", output, stdout=file).returncode == 0
        assert (tmp_path / "redirected").read_text() == "values"
    done = command("http://127.0.0.1:9", "download", "-o", output, "--json")
    assert (done.stdout, done.returncode) == ("", 2)


def test_a_form_that_the_name_denies_is_refused_before_anything_is_asked_for(command):
    done = command("http://127.0.0.1:9", "download", "-o", "b.npz", "--format", "json")
    assert done.returncode == 2
    assert "b.npz would hold json" in " ".join(done.stderr.split())


@pytest.mark.parametrize("name", ["download", "curves", "figures", "export-schedule"])
def test_help_says_that_files_are_replaced(command, name):
    assert "replaced." in " ".join(command("http://127.0.0.1:9", name, "--help").stdout.split())
