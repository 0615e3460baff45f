"""Bytes under their digest: in a folder, and in something like a bucket."""

import hashlib
import io
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from core.config import Settings
from core.errors import DamagedBlob, StorageUnavailable
from core.storage import Storage, open_storage


@pytest.fixture(params=["folder", "bucket"])
def storage(request, tmp_path):
    if request.param == "folder":
        yield Storage(str(tmp_path / "blobs"))
        return
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield Storage("memory://bucket/prefix", cache=tmp_path / "cache")
    memory.store.clear()


def digest(content):
    return hashlib.sha256(content).hexdigest()


def put(storage, content):
    storage.put(io.BytesIO(content), digest(content))
    return digest(content)


def read(storage, sha256):
    with storage.opened(sha256) as file:
        return file.read()


def files(storage):
    return storage._fs.find(storage._root)


def path_of(storage, sha256):
    return storage._path(sha256)


@pytest.mark.parametrize("content", [b"", b"x", os.urandom(3 << 20)], ids=["empty", "small", "large"])
def test_what_is_kept_comes_back(storage, content):
    sha256 = put(storage, content)
    assert read(storage, sha256) == content
    assert list(storage.found()) == [(sha256, len(content))]


def test_the_same_bytes_are_written_once(storage):
    sha256 = put(storage, b"the same")
    before = storage._fs.modified(path_of(storage, sha256))
    put(storage, b"the same")
    assert storage._fs.modified(path_of(storage, sha256)) == before
    assert len(files(storage)) == 1


def test_bytes_with_another_digest_are_not_kept(storage):
    with pytest.raises(DamagedBlob, match="came with the digest"):
        storage.put(io.BytesIO(b"other"), digest(b"these"))
    assert files(storage) == []


def test_a_writer_that_fails_leaves_nothing(storage):
    class Failing(io.BytesIO):
        def read(self, size=-1):
            raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        storage.put(Failing(b"12345"), digest(b"12345"))
    assert files(storage) == []


def test_many_writers_of_the_same_bytes(storage):
    content = os.urandom(1 << 20)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: put(storage, content), range(16)))
    assert read(storage, digest(content)) == content
    assert len(files(storage)) == 1


@pytest.mark.parametrize("damage", [b"damages", b"shorter"[:3], b""])
def test_damage_is_noticed_by_who_reads(storage, damage):
    sha256 = put(storage, b"content")
    storage._fs.pipe_file(path_of(storage, sha256), damage)
    with pytest.raises(DamagedBlob, match="have another digest now"):
        read(storage, sha256)


@pytest.mark.parametrize("damage", [b"damages", b"cont"])
def test_damage_is_mended_by_the_same_bytes(storage, damage):
    sha256 = put(storage, b"content")
    storage._fs.pipe_file(path_of(storage, sha256), damage)
    assert read(storage, put(storage, b"content")) == b"content"
    assert sha256 == digest(b"content")


def test_what_is_not_there_is_said_so(storage):
    with pytest.raises(DamagedBlob, match="are not in the storage; upload the data again"):
        read(storage, "0" * 64)
    storage.delete("0" * 64)


def test_who_reads_goes_on_when_it_is_deleted(storage):
    sha256 = put(storage, b"content")
    with storage.opened(sha256) as file:
        storage.delete(sha256)
        assert file.read() == b"content"
    assert list(storage.found()) == []


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_only_digests_are_names(storage, name):
    with pytest.raises(ValueError, match="not a SHA-256 digest"), storage.opened(name):
        pass


def test_what_a_killed_writer_left_is_cleared_in_time(storage):
    sha256 = put(storage, b"content")
    storage._make_folder_of(f"{storage._root}/unfinished/x")
    storage._fs.pipe_file(f"{storage._root}/unfinished/x", b"half")
    assert list(storage.found()) == [(sha256, 7)]
    assert storage.clear_unfinished(3600) == 0
    time.sleep(0.01)
    assert storage.clear_unfinished(0) == 1
    assert read(storage, sha256) == b"content"


def test_files_are_for_their_owner_alone_and_moved_to_their_name(tmp_path):
    storage = Storage(f"file://{tmp_path}/blobs/")
    sha256 = put(storage, b"content")
    path = tmp_path / "blobs" / sha256[:2] / sha256
    assert path.read_bytes() == b"content"
    assert path.parent.stat().st_mode & 0o077 == 0
    assert list((tmp_path / "blobs" / "unfinished").iterdir()) == []


def test_a_copy_is_fetched_once_and_mended(tmp_path):
    memory = fsspec.filesystem("memory")
    storage = Storage("memory://once", cache=tmp_path)
    sha256 = put(storage, b"content")
    assert read(storage, sha256) == b"content"
    memory.store.clear()  # the copy is all that is left
    assert read(storage, sha256) == b"content"
    put(storage, b"content")
    (tmp_path / sha256).write_bytes(b"damaged")
    assert read(storage, sha256) == b"content"
    memory.store.clear()


def test_copies_make_room_for_new_ones(tmp_path):
    storage = Storage("memory://room", cache=tmp_path, cache_bytes=2500)
    kept = [put(storage, bytes([number]) * 1000) for number in range(3)]
    for age, sha256 in zip((30, 20, 10), kept, strict=True):
        read(storage, sha256)
        os.utime(tmp_path / sha256, (time.time() - age,) * 2)
    assert {path.name for path in tmp_path.iterdir()} == set(kept[1:])
    read(storage, kept[1])  # used again, so the third is the oldest now
    read(storage, kept[0])
    assert {path.name for path in tmp_path.iterdir()} == {kept[0], kept[1]}
    large = put(storage, bytes(9000))
    assert read(storage, large) == bytes(9000)
    assert {path.name for path in tmp_path.iterdir()} == {large}
    fsspec.filesystem("memory").store.clear()


def test_s3_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(StorageUnavailable, match=r"RETROGRAD_STORAGE_URL: .*pip install 'retrograd\[s3\]'"):
        Storage("s3://bucket/prefix")


def test_an_unknown_protocol_is_named():
    with pytest.raises(StorageUnavailable, match="RETROGRAD_STORAGE_URL: .*gopher"):
        Storage("gopher://x")


def test_without_a_setting_there_is_none(tmp_path):
    assert open_storage(Settings(storage_url="")) is None
    storage = open_storage(Settings(storage_url=str(tmp_path)))
    assert Path(storage._root) == tmp_path


def test_copies_are_read_while_other_workers_make_room(tmp_path):
    """Each as a process of its own would: none finds a copy gone, empty or half."""
    stores = [Storage("memory://shared", cache=tmp_path, cache_bytes=2500) for _ in range(4)]
    kept = [(put(stores[0], bytes([number]) * 1000), bytes([number]) * 1000) for number in range(6)]

    def work(number):
        draw = random.Random(number)
        return all(read(stores[number], sha256) == content for sha256, content in draw.choices(kept, k=150))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    fsspec.filesystem("memory").store.clear()
