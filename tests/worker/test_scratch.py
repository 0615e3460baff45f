"""Folders of jobs: made, found again, removed, swept when nobody comes back."""

import os
from uuid import uuid4

from worker import scratch


def test_a_job_finds_its_folder_again_until_it_has_ended(tmp_path):
    job_id = uuid4()
    folder = scratch.folder_for(tmp_path, job_id)
    (folder / "start 1.npz").write_bytes(b"x")
    scratch.folder_for(tmp_path, uuid4())
    assert scratch.folder_for(tmp_path, job_id) == folder
    assert (folder / "start 1.npz").exists()
    scratch.remove(folder)
    assert not folder.exists()
    scratch.remove(folder)


def test_what_nobody_came_back_to_is_swept(tmp_path):
    left, used = (scratch.folder_for(tmp_path, uuid4()) for _ in range(2))
    (tmp_path / "not ours").mkdir()
    for folder in (left, used, tmp_path / "not ours"):
        (folder / "file").write_bytes(b"x")
        for path in (folder / "file", folder):
            os.utime(path, (0, 0))
    (used / "file").touch()
    scratch.folder_for(tmp_path, uuid4())
    assert not left.exists()
    assert used.exists()
    assert (tmp_path / "not ours").exists()


def test_without_a_place_nothing_is_kept(tmp_path):
    assert scratch.folder_for(None, uuid4()) is None
    (tmp_path / "file").write_bytes(b"")
    assert scratch.folder_for(tmp_path / "file", uuid4()) is None
    scratch.remove(None)
