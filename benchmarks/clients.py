"""Clients that ask as fast as they are answered, each a process: light, as they share the machine with the service."""

from __future__ import annotations

import http.client
import random
import time
from typing import NamedTuple

CREATE = "create a job"
Request = tuple[str, str, bytes | None]  # method, path, body


class Load(NamedTuple):
    """A kind of request."""

    name: str
    key: str
    requests: list[Request]


def client(load: Load, port: int, seed: float, measured_from: float, seconds: float) -> tuple[list[float], int]:
    """One client: the next request as soon as there is the answer to the one before.

    Returns seconds of each answer from `measured_from` on, and the number of all.
    """
    draw = random.Random(seed)
    headers = {"Authorization": f"Bearer {load.key}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    found, asked = [], 0
    while (now := time.time()) < measured_from + seconds:
        method, path, body = draw.choice(load.requests)
        began = time.perf_counter()
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.read()
        took = time.perf_counter() - began
        asked += 1
        if answer.status not in (200, 202):
            raise RuntimeError(f"{method} {path}: {answer.status}")
        if now >= measured_from:
            found.append(took)
    connection.close()
    return found, asked


def ready(_: int) -> None:
    """Let every process of a pool start before a clock does."""
    time.sleep(0.2)
