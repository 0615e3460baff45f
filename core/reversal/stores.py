"""Where spilled bits are kept: stacks of arrays in host memory or in a file."""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from core.errors import OutOfDisk

_LEFT_TO_OTHERS = 128 << 20  # bytes of a disk; a database that finds none stops


class Store(Protocol):
    """A stack of arrays off the device. Copies are started at once and awaited when the next array comes, so that
    they overlap with what the device does meanwhile.
    """

    bits: int
    """Number of bits pushed so far."""

    def push(self, array: jax.Array) -> None:
        """Start copying `array` off the device."""

    def pop(self) -> jax.Array | np.ndarray:
        """The array pushed last."""

    def close(self) -> None:
        """Give the space back."""

    def __len__(self) -> int: ...


class HostStore:
    """A `Store` in host memory."""

    def __init__(self) -> None:
        self._arrays: list[jax.Array | np.ndarray] = []
        self.bits = 0

    def push(self, array: jax.Array) -> None:
        array.copy_to_host_async()
        if self._arrays:
            self._arrays[-1] = np.asarray(self._arrays[-1])
        self._arrays.append(array)
        self.bits += 8 * array.nbytes

    def pop(self) -> jax.Array | np.ndarray:
        return self._arrays.pop()

    def close(self) -> None:
        self._arrays.clear()

    def __len__(self) -> int:
        return len(self._arrays)


class NoStore:
    """A `Store` that lets go of everything: for training that is not run backward."""

    bits = 0

    def push(self, array: jax.Array) -> None:
        pass

    def pop(self) -> jax.Array | np.ndarray:
        raise IndexError("nothing is kept")

    def close(self) -> None:
        pass

    def __len__(self) -> int:
        return 0


class DiskStore:
    """A `Store` in a file of `folder`, read back through a memory map.

    The file has no name, so that it is gone when the store is closed and when the process dies, however it dies.
    """

    def __init__(self, folder: Path) -> None:
        # unbuffered: what a buffer still held would be written by `close`, where a full disk must not be an error
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by `close`
        self._folder = folder
        self._shapes: list[tuple[tuple[int, ...], np.dtype[Any]]] = []
        self._end = 0
        self._in_flight: jax.Array | None = None
        self.bits = 0

    def push(self, array: jax.Array) -> None:
        array.copy_to_host_async()
        self._land()
        self._in_flight = array
        self.bits += 8 * array.nbytes

    def pop(self) -> jax.Array | np.ndarray:
        if self._in_flight is not None:
            array, self._in_flight = self._in_flight, None
            return array
        shape, dtype = self._shapes.pop()
        length = int(np.prod(shape)) * dtype.itemsize
        self._end -= length
        if not length:
            return np.zeros(shape, dtype)
        values = np.array(np.memmap(self._file, dtype, "r", self._end, shape))
        self._file.truncate(self._end)
        return values

    def close(self) -> None:
        self._in_flight = None
        self._shapes.clear()
        self._file.close()

    def __len__(self) -> int:
        return len(self._shapes) + (self._in_flight is not None)

    def _land(self) -> None:
        """Write the array whose copy was started last."""
        if self._in_flight is None:
            return
        values, self._in_flight = np.asarray(self._in_flight), None
        free = shutil.disk_usage(self._folder).free
        if values.nbytes > free - _LEFT_TO_OTHERS:
            raise OutOfDisk(self._folder, values.nbytes, free)
        try:
            self._file.seek(self._end)
            rest = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                raise
            raise OutOfDisk(self._folder, values.nbytes, shutil.disk_usage(self._folder).free) from error
        self._shapes.append((values.shape, values.dtype))
        self._end += values.nbytes
