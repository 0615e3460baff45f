"""The service under load, on the embedded stack with its worker idle: how fast it is, and that it does not slow as the
tables grow.

python -m benchmarks.load [--jobs 10000 1000000] [--seconds 4] [--rounds 5] [--clients 4]

One Postgres, one database for each size, an API and a janitor for each. Requests of one kind are made alone, to each
size in turn and again for as many rounds, so that what else the machine does falls on all sizes alike. Clients are
processes of their own with one connection each, that they keep. Every job, cursor and preset is drawn from the whole
table, so nothing stays warm that would not stay warm in service.
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
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psutil
import psycopg

from benchmarks.clients import CREATE, Load, client, ready
from benchmarks.filling import PRESETS, Filled, fill
from benchmarks.measure import RESULTS, write
from core import presets
from core.store import cursors, migrate
from retrograd.local import servers
from retrograd.local.guarded import Guarded

SAMPLES = 5_000  # jobs and places in the list that requests are drawn from
WARM_UP_SECONDS = 1.0
START_SECONDS = 0.2  # until all clients have got their task
UNREACHED = "1000000 per 1 second"  # requests are counted as in service, but none is refused


class Served(NamedTuple):
    """One size: its database, filled, and its API."""

    url: str  # of the database
    port: int  # of the API
    api: psutil.Process
    filled: Filled


def main() -> None:
    """Measure all sizes side by side, print and keep the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load")
    parser.add_argument(
        "--jobs", type=int, nargs="+", default=[10_000, 1_000_000], help="sizes, the smallest first"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of each kind of request, size and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="where the databases are made, and deleted again")
    parser.add_argument("--result", type=Path, default=RESULTS / "load.json")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="retrograd-load-", dir=options.folder))
    try:
        with (
            serving(folder, options.jobs) as sizes,
            multiprocessing.get_context("spawn").Pool(options.clients) as pool,
        ):
            found: dict[str, Any] = {
                "clients": options.clients,
                "seconds": options.seconds * options.rounds,
                "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
                "rows": [served.filled.rows for served in sizes],
                "requests": {},
            }
            for name, rows in measure(sizes, pool, options):
                found["requests"][name] = rows
                write(options.result, found)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(
    sizes: list[Served], pool: Pool, options: argparse.Namespace
) -> Iterator[tuple[str, list[dict[str, float]]]]:
    """Each kind of request, with what was measured at each size."""
    pool.map(ready, range(options.clients), chunksize=1)
    for same in zip(*(loads(served) for served in sizes), strict=True):
        answers: list[list[float]] = [[] for _ in sizes]
        processor = [0.0 for _ in sizes]
        for _ in range(options.rounds):
            for place, (served, load) in enumerate(zip(sizes, same, strict=True)):
                found, used = timed(load, served, pool, options)
                answers[place] += found
                processor[place] += used / options.rounds
        rows = [
            summary(found, used, options.seconds * options.rounds)
            for found, used in zip(answers, processor, strict=True)
        ]
        shown = (" ".join(f"{what} {value:7.2f}" for what, value in row.items()) for row in rows)
        print(same[0].name, *shown, sep="\n    ", flush=True)
        yield same[0].name, rows


def loads(served: Served) -> Iterator[Load]:
    """What clients of the largest project ask, and of the smallest where that could differ."""
    large, small = served.filled.projects[0], served.filled.projects[-1]
    key, small_key = served.filled.keys[0], served.filled.keys[-1]
    with psycopg.connect(served.url.replace("+psycopg", "", 1)) as connection:
        places, small_places = _places(connection, large), _places(connection, small)

    def get(name: str, paths: list[str], key: str = key) -> Load:
        return Load(name, key, [("GET", path, None) for path in paths])

    def pages(query: str, at: list[tuple[Any, UUID]]) -> list[str]:
        return [f"/v1/jobs?{query}after={cursors.encode(*place)}" for place in at]

    yield get("poll a job", [f"/v1/jobs/{job_id}" for _, job_id in places])
    yield get("list, first page", ["/v1/jobs"])
    yield get("list, any page", pages("", places))
    yield get("list, any page of a small project", pages("", small_places), small_key)
    yield get(
        "list by state",
        [path for state in ("succeeded", "queued") for path in pages(f"state={state}&", places[:500])],
    )
    yield get(
        "list by preset", [path for name in (*PRESETS, "none") for path in pages(f"preset={name}&", places[:500])]
    )
    both = [f"state={state}&preset={name}&" for state in ("failed", "paused") for name in (*PRESETS, "none")]
    yield get("list by state and preset", [path for query in both for path in pages(query, places[:500])])
    yield get("list meta-iterations", [f"/v1/jobs/{job_id}/iterations" for _, job_id in places])
    if "/v1/jobs/{job_id}/events" in _paths(served.port):
        yield get("list events", [f"/v1/jobs/{job_id}/events" for _, job_id in places])
    body = json.dumps(presets.get("digits-schedules").model_dump(mode="json")).encode()
    yield Load(CREATE, key, [("POST", "/v1/jobs", body)])


def _places(connection: psycopg.Connection, project: UUID) -> list[tuple[Any, UUID]]:
    """Time and id of jobs of a project, from all over the table."""
    query = "SELECT created_at, id FROM jobs WHERE project_id = %s ORDER BY random() LIMIT %s"
    return [(row[0], row[1]) for row in connection.execute(query, [project, SAMPLES]).fetchall()]


def _paths(port: int) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/openapi.json")
    found: dict[str, Any] = json.load(connection.getresponse())["paths"]
    connection.close()
    return found


def timed(load: Load, served: Served, pool: Pool, options: argparse.Namespace) -> tuple[list[float], float]:
    """Seconds of every answer to all clients at once, after a time to warm up; and of the API's processor for one."""
    start = time.time() + START_SECONDS
    before = served.api.cpu_times()
    tasks = [
        (load, served.port, random.random(), start + WARM_UP_SECONDS, options.seconds)
        for _ in range(options.clients)
    ]
    found = pool.starmap(client, tasks, chunksize=1)
    after = served.api.cpu_times()
    used = after.user + after.system - before.user - before.system
    return [one for answers, _ in found for one in answers], used / sum(asked for _, asked in found)


def summary(answers: list[float], processor: float, seconds: float) -> dict[str, float]:
    """Answers a second, percentiles of their milliseconds, and milliseconds of the API's processor for one of them."""
    percentiles = statistics.quantiles(answers, n=100)
    return {
        "per_second": len(answers) / seconds,
        "p50_ms": 1e3 * percentiles[49],
        "p99_ms": 1e3 * percentiles[98],
        "processor_ms": 1e3 * processor,
    }


@contextlib.contextmanager
def serving(folder: Path, sizes: list[int]) -> Iterator[list[Served]]:
    """The embedded stack, each part a process: Postgres, broker, an API and a janitor for each size, and a worker.

    The worker has nothing to do: it serves a queue to which no job goes.
    """
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(servers.postgres(folder / "postgres"))
        broker = stack.enter_context(servers.valkey(folder / "valkey"))

        def start(name: str, url: str, *arguments: str, queue: str = "cpu") -> Guarded:
            env = {key: value for key, value in os.environ.items() if not key.startswith("RETROGRAD_")} | {
                "RETROGRAD_DATABASE_URL": url,
                "RETROGRAD_BROKER_URL": broker.url,
                "RETROGRAD_QUEUE": queue,
                "RETROGRAD_RATE_LIMIT_READS": UNREACHED,
                "RETROGRAD_RATE_LIMIT_WRITES": UNREACHED,
                "RETROGRAD_QUOTA_QUEUED_JOBS": "1000000000",
                "PYTHONPATH": str(Path(__file__).parents[1]),
                "TMPDIR": str(folder),
            }
            command = [sys.executable, "-m", *arguments]
            process = Guarded(name, command, log=folder / f"{name}.log", env=env, cwd=folder)
            stack.callback(process.stop)
            return process

        served = []
        for number in sizes:
            url = database.create_database(f"jobs_{number}")
            migrate.upgrade(url)
            began = time.perf_counter()
            filled = fill(url, number)
            print(f"{filled.rows} filled in {time.perf_counter() - began:.0f} s", flush=True)
            port = servers.free_port()
            api = start(f"api {number}", url, "api", "--port", str(port))
            start(f"janitor {number}", url, "worker.janitor")
            api.wait_ready(lambda port=port: _answers(port), 60)  # type: ignore[misc]
            served.append(Served(url, port, psutil.Process(api.pid), filled))
        start("worker", served[-1].url, "worker", queue="gpu")
        yield served


def _answers(port: int) -> bool:
    try:
        _paths(port)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
