"""A server to talk to, whatever there is: the known one, or one for as long as it is needed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from retrograd.client import Client
from retrograd.home import Home


@contextmanager
def service() -> Iterator[Client]:
    """A client of the server that `RETROGRAD_URL` names or that runs in this folder; if there is none, of an embedded
    stack that is started for the length of the block, and whose jobs end with it.
    """
    if os.environ.get("RETROGRAD_URL") or Home().url:
        with Client() as client:
            yield client
        return
    from retrograd.local.stack import Stack

    with (
        tempfile.TemporaryDirectory(prefix="retrograd-") as folder,
        Stack(Home(folder), 0) as stack,
        Client(stack.url, stack.api_key) as client,
    ):
        yield client
