"""The service under load, on the embedded stack with its worker idle: how fast it is, and that it does not slow as the
tables grow.

python -m benchmarks.load [--jobs 10000 1000000] [--seconds 10] [--clients 4]

Answers are timed by clients in processes of their own, each with one connection that it keeps. Each kind of request is
made alone, then the next. Every job, cursor and preset is drawn anew from the whole table, so nothing stays warm that
would not stay warm in service.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import multiprocessing
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from benchmarks.filling import PRESETS, Filled, fill
from benchmarks.measure import RESULTS, write
from core import presets
from core.store import cursors, migrate
from retrograd.local import servers
from retrograd.local.guarded import Guarded

SAMPLES = 5_000  # jobs and places in the list that requests are drawn from
WARM_UP_SECONDS = 2.0
MOST_P99_RATIO = 1.5  # of the largest size to the smallest, for listing and polling

Request = tuple[str, str, bytes | None]  # method, path, body


class Load(NamedTuple):
    """A kind of request."""

    name: str
    key: str
    requests: list[Request]


class Served(NamedTuple):
    """The stack, filled."""

    url: str  # of the database
    port: int  # of the API
    filled: Filled


def main() -> None:
    """Measure each size in a stack of its own, print and keep the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--jobs", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each kind of request")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="where the database is made, and deleted again")
    parser.add_argument("--result", type=Path, default=RESULTS / "load.json")
    options = parser.parse_args()
    found: dict[str, Any] = {
        "clients": options.clients,
        "seconds": options.seconds,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "sizes": [],
    }
    for number in options.jobs:
        folder = Path(tempfile.mkdtemp(prefix="retrograd-load-", dir=options.folder))
        try:
            with serving(folder, number) as served:
                found["sizes"].append(measure(served, options))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        write(options.result, found)


def measure(served: Served, options: argparse.Namespace) -> dict[str, Any]:
    """All kinds of requests at one size."""
    size: dict[str, Any] = {"rows": served.filled.rows, "requests": {}}
    print(f"{served.filled.rows}", flush=True)
    for load in loads(served):
        seconds = timed(load, served.port, options.clients, options.seconds)
        size["requests"][load.name] = row = summary(seconds, options.seconds)
        print(f"  {load.name:32}" + " ".join(f"{name} {value:8.2f}" for name, value in row.items()), flush=True)
    return size


def loads(served: Served) -> Iterator[Load]:
    """What clients of the largest project ask, and of the smallest where that could differ."""
    draw = random.Random(0)
    large, small = served.filled.projects[0], served.filled.projects[-1]
    key, small_key = served.filled.keys[0], served.filled.keys[-1]
    with psycopg.connect(served.url.replace("+psycopg", "", 1)) as connection:
        places = _places(connection, large)
        small_places = _places(connection, small)
    draw.shuffle(places)

    def get(name: str, paths: list[str], key: str = key) -> Load:
        return Load(name, key, [("GET", path, None) for path in paths])

    yield get("poll a job", [f"/v1/jobs/{job_id}" for _, job_id in places])
    yield get("list, first page", ["/v1/jobs"])
    yield get("list, any page", [f"/v1/jobs?after={_cursor(*place)}" for place in places])
    yield get(
        "list, any page, small project", [f"/v1/jobs?after={_cursor(*place)}" for place in small_places], small_key
    )
    yield get("list by state", ["/v1/jobs?state=succeeded", "/v1/jobs?state=queued", "/v1/jobs?state=paused"])
    yield get("list by preset", [f"/v1/jobs?preset={name}" for name in (*PRESETS, "per-weight-l2")])
    both = [
        f"/v1/jobs?state={state}&preset={name}" for state in ("failed", "paused") for name in (*PRESETS, "none")
    ]
    yield get(
        "list by state and preset", [f"{path}&after={_cursor(*place)}" for path in both for place in places[:500]]
    )
    yield get("list meta-iterations", [f"/v1/jobs/{job_id}/iterations" for _, job_id in places])
    if "/v1/jobs/{job_id}/events" in _paths(served.port):
        yield get("list events", [f"/v1/jobs/{job_id}/events" for _, job_id in places])
    body = json.dumps(presets.get("digits-schedules").model_dump(mode="json")).encode()
    yield Load("create a job", key, [("POST", "/v1/jobs", body)])


def _places(connection: psycopg.Connection, project: UUID) -> list[tuple[Any, UUID]]:
    """Time and id of jobs of a project, from all over the table."""
    query = "SELECT created_at, id FROM jobs WHERE project_id = %s ORDER BY random() LIMIT %s"
    return [(row[0], row[1]) for row in connection.execute(query, [project, SAMPLES]).fetchall()]


def _cursor(created_at: Any, job_id: UUID) -> str:
    return cursors.encode(created_at, job_id)


def _paths(port: int) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/openapi.json")
    found: dict[str, Any] = json.load(connection.getresponse())["paths"]
    connection.close()
    return found


def timed(load: Load, port: int, clients: int, seconds: float) -> list[float]:
    """Seconds of every answer to as many clients at once, after a time to warm up."""
    with multiprocessing.get_context("spawn").Pool(clients) as pool:
        pool.map(_ready, range(clients))
        until = time.time() + WARM_UP_SECONDS + 0.5
        tasks = [(load, port, seed, until, seconds) for seed in range(clients)]
        return [one for found in pool.starmap(client, tasks, chunksize=1) for one in found]


def _ready(_: int) -> None:
    """Import what a client needs before the clock starts."""


def client(load: Load, port: int, seed: int, measured_from: float, seconds: float) -> list[float]:
    """One client: the next request as soon as there is the answer to the one before."""
    draw = random.Random(seed)
    headers = {"Authorization": f"Bearer {load.key}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    found = []
    while (now := time.time()) < measured_from + seconds:
        method, path, body = draw.choice(load.requests)
        began = time.perf_counter()
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.read()
        took = time.perf_counter() - began
        if answer.status not in (200, 202):
            raise RuntimeError(f"{method} {path}: {answer.status}")
        if now >= measured_from:
            found.append(took)
    connection.close()
    return found


def summary(answers: list[float], seconds: float) -> dict[str, float]:
    """Answers a second, and percentiles of their milliseconds."""
    percentiles = statistics.quantiles(answers, n=100)
    return {
        "per_second": len(answers) / seconds,
        "p50_ms": 1e3 * percentiles[49],
        "p99_ms": 1e3 * percentiles[98],
        "worst_ms": 1e3 * max(answers),
    }


@contextlib.contextmanager
def serving(folder: Path, number: int) -> Iterator[Served]:
    """The embedded stack, each part a process: Postgres, broker, API, janitor, and a worker with nothing to do."""
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(servers.postgres(folder / "postgres"))
        broker = stack.enter_context(servers.valkey(folder / "valkey"))
        url = database.url()
        migrate.upgrade(url)
        began = time.perf_counter()
        filled = fill(url, number)
        print(f"filled in {time.perf_counter() - began:.0f} s", flush=True)
        port = servers.free_port()
        env = {key: value for key, value in os.environ.items() if not key.startswith("RETROGRAD_")} | {
            "RETROGRAD_DATABASE_URL": url,
            "RETROGRAD_BROKER_URL": broker.url,
            "RETROGRAD_QUEUE": "cpu",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "TMPDIR": str(folder),
        }

        def start(name: str, *arguments: str, **changes: str) -> Guarded:
            command = [sys.executable, "-m", *arguments]
            process = Guarded(name, command, log=folder / f"{name}.log", env=env | changes, cwd=Path.cwd())
            stack.callback(process.stop)
            return process

        api = start("api", "api", "--port", str(port))
        start("janitor", "worker.janitor")
        start("worker", "worker", RETROGRAD_QUEUE="gpu")  # to which no job goes
        api.wait_ready(lambda: _answers(port), 60)
        yield Served(url, port, filled)


def _answers(port: int) -> bool:
    try:
        _paths(port)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
