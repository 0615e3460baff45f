"""Room for so many at once of what takes much memory; who finds none is told to come again, and holds nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from api.errors import Busy


@contextmanager
def place(places: threading.BoundedSemaphore, said: str) -> Iterator[None]:
    """Have one of `places` for the block.

    Raises:
        Busy: there is none left; `said` is what there is too much of.
    """
    if not places.acquire(blocking=False):
        raise Busy(said)
    try:
        yield
    finally:
        places.release()
