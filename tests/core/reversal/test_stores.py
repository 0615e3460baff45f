"""Every store is a stack of arrays; the one on disk leaves nothing behind."""

import os
import resource
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import OutOfDisk
from core.reversal import stores
from core.reversal.stores import DiskStore, HostStore


@pytest.fixture(params=["host", "disk"])
def store(request, tmp_path):
    store = HostStore() if request.param == "host" else DiskStore(tmp_path)
    yield store
    store.close()


def arrays():
    shapes = [(3,), (4, 2), (0,), (), (5,)]
    kinds = [jnp.uint32, jnp.float64, jnp.int8, jnp.int16, jnp.int64]
    return [jnp.full(shape, 7, kind) for shape, kind in zip(shapes, kinds, strict=True)]


def test_arrays_come_back_last_in_first_out(store):
    for array in arrays():
        store.push(array)
    assert store.bits == 8 * sum(array.nbytes for array in arrays())
    assert len(store) == 5
    for array in reversed(arrays()):
        popped = np.asarray(store.pop())
        assert (popped.shape, popped.dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(popped, array)
    assert len(store) == 0


def test_pushing_goes_on_after_popping(store):
    for number in range(3):
        store.push(jnp.full(4, number))
    assert int(store.pop()[0]) == 2
    store.push(jnp.full(2, 9))
    assert [int(np.asarray(store.pop())[0]) for _ in range(3)] == [9, 1, 0]


def test_what_is_popped_stays_valid(store):
    for number in range(3):
        store.push(jnp.full(1000, number, jnp.float64))
    popped = [np.asarray(store.pop()) for _ in range(3)]
    store.close()
    assert [one[0] for one in popped] == [2.0, 1.0, 0.0]


def test_a_file_has_no_name_and_shrinks_as_it_is_read(tmp_path):
    store = DiskStore(tmp_path)
    for _ in range(4):
        store.push(jnp.zeros(1000))
    store.push(jnp.zeros(1))
    size = lambda: os.fstat(store._file.fileno()).st_size  # noqa: E731
    assert list(tmp_path.iterdir()) == []
    assert size() == 4 * 8000
    store.pop()
    store.pop()
    assert size() == 3 * 8000
    store.close()


def test_a_full_disk_is_named(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = DiskStore(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, hard))
    try:
        store.push(jnp.zeros(1024))
        store.push(jnp.zeros(1024))
        store.push(jnp.zeros(1024))
        with pytest.raises(OutOfDisk, match="hybrid"):
            store.push(jnp.zeros(1024))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        store.close()


def test_a_disk_full_of_small_arrays_is_named_and_the_store_closes(tmp_path):
    """Less than a file's buffer would hold, so that a buffered write would fail in `close` as well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = DiskStore(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        for _ in range(13):
            store.push(jnp.zeros(1))
        with pytest.raises(OutOfDisk, match="8 bytes more"):  # the limit lies within the 13th array
            store.push(jnp.zeros(1))
        store.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_is_not_filled_to_the_last_byte(tmp_path, monkeypatch):
    free = stores._LEFT_TO_OTHERS + 8 * 1024
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=free))
    store = DiskStore(tmp_path)
    store.push(jnp.zeros(1024))
    store.push(jnp.zeros(1025))  # the first has just room
    with pytest.raises(OutOfDisk, match=str(tmp_path)) as caught:
        store.push(jnp.zeros(1))
    assert caught.value.details() == {"folder": str(tmp_path), "needed": 8 * 1025, "free": free}
    store.close()


def test_an_array_that_is_written_in_parts_comes_back_whole(tmp_path, monkeypatch):
    store = DiskStore(tmp_path)
    file = store._file

    class Slow:
        """A file that takes five bytes at a time."""

        def __getattr__(self, name):
            return getattr(file, name)

        def write(self, data):
            return file.write(data[:5])

    monkeypatch.setattr(store, "_file", Slow())
    for array in arrays():
        store.push(array)
    monkeypatch.undo()
    for array in reversed(arrays()):
        np.testing.assert_array_equal(store.pop(), array)
    store.close()
