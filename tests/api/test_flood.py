"""A flood of requests that nobody should send: no answer of 5xx, no byte of another project, memory bounded."""

import hashlib
import re
import socket
from collections import Counter
from contextlib import suppress
from itertools import islice

import httpx
import psutil
import pytest

from core.store import blobs, datasets, jobs, keys, leases, programs
from core.store.session import close_store, open_store
from retrograd.local.servers import free_port
from tests.api.flood import Flood, Target
from tests.builders import claim, create_in, document, eventually, record, values
from tests.conftest import fresh_settings, running
from tests.programs import making

CANARY = "canary4f1c"  # in all that another project's job holds
MARGIN = 64 << 20  # bytes by which the API may grow, after the first tenth of the cases
UNFINISHED = ("lying headers", "nonsense")  # whose rest the API may wait for
OPERATIONS = ("get", "post", "delete", "put", "patch")


@pytest.fixture(scope="module")
def settings(postgres, migrated, valkey):
    with fresh_settings(postgres, migrated, valkey) as settings:
        yield settings


@pytest.fixture(scope="module")
def sessions(settings):
    opened = open_store(settings.database_url)
    yield opened
    close_store(opened)


@pytest.fixture(scope="module")
def api(settings, tmp_path_factory):
    """The API as a process of its own, and its port."""
    port = free_port()
    log = tmp_path_factory.mktemp("api") / "log"
    environ = {"RETROGRAD_BOOTSTRAP_API_KEY": settings.bootstrap_api_key.get_secret_value()}
    environ |= {f"RETROGRAD_RATE_LIMIT_{policy}": "" for policy in ("READS", "WRITES", "STRANGERS")}
    with running("api", settings, log, "--port", str(port), **environ) as process:
        eventually(lambda: _answers(port))
        yield psutil.Process(process.pid), port
        assert "Traceback" not in log.read_text()


def _answers(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def target(sessions, settings, api):
    """Jobs of ours, and one of another project that has the canary wherever there is room for it."""
    with sessions.begin() as session:
        own = keys.ensure_project(session, keys.DEFAULT_PROJECT)
        other = keys.ensure_project(session, f"project {CANARY}")
        keys.add(session, other, keys.new_key())
        mine = [create_in(session, own) for _ in range(3)]
        theirs = [create_in(session, other) for _ in range(3)]
        cursors = [jobs.page(session, project, limit=1).next for project in (own, other)]
        for job_id in theirs:
            job = jobs.get(session, other, job_id)
            job.name, job.spec = CANARY, job.spec | {"name": CANARY}
    uploads, their_uploads = (
        uploaded(sessions, project, name) for project, name in ((own, "ours"), (other, CANARY))
    )
    for project, ids in ((own, mine), (other, theirs)):
        secret = CANARY if project == other else "ours"
        lease = claim(sessions, ids[0])
        with sessions.begin() as session:
            leases.save_start(session, lease, values(0), {"initial": None}, {"device": secret})
            leases.save_iteration(session, lease, record(0, best=0, best_loss=1.0, mode=secret))
            leases.fail(session, lease, "diverged", secret, {"why": secret})
    _, port = api
    described = httpx.get(f"http://127.0.0.1:{port}/openapi.json").json()["paths"]
    paths = [
        (method.upper(), path) for path, known in described.items() for method in known if method in OPERATIONS
    ]
    key = settings.bootstrap_api_key.get_secret_value()
    (dataset_id, *_), (program_id, *_) = uploads["dataset_id"], uploads["program_id"]
    about = [
        making.job(program_id, dataset_id),
        making.job(program_id, dataset_id, initial={"penalties": [0.0] * 16}, learn=["momentum"]),
        document({"problem.dataset": {"id": dataset_id, "split": {"train": 20, "valid": 5, "test": 5}}}),
    ]
    return Target(key, list(map(str, mine)), list(map(str, theirs)), cursors, paths, uploads, their_uploads, about)


def uploaded(sessions, project, name):
    """Ids of uploads of a project whose bytes nobody needs, by the name that paths have for them."""
    found = {}
    arrays = {"inputs": {"shape": [30, 4, 4], "dtype": "uint8"}, "labels": {"shape": [30], "dtype": "int32"}}
    summaries = {
        "dataset_id": (datasets, arrays | {"class_counts": [10, 10, 10], "scale": 255.0}),
        "program_id": (programs, making.found()),
    }
    for parameter, (kind, summary) in summaries.items():
        with sessions.begin() as session:
            blobs.expect(session, (digest := hashlib.sha256(parameter.encode()).hexdigest()), 7)
            rows = [kind.add(session, project, f"{name} {number}", digest, summary) for number in range(3)]
            found[parameter] = [stored.row.id for stored, _ in rows]
    return found


def ask(port, wire, patience=30.0):
    """All that the service sends back until it closes the connection, or is silent for `patience` seconds."""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as connection:
        found = bytearray()
        with suppress(ConnectionError, TimeoutError):  # it may hang up on nonsense, or wait for what never comes
            connection.sendall(wire)
            while piece := connection.recv(1 << 16):
                found += piece
        return bytes(found)


def status_of(answer):
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    return int(found[1]) if found else None


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", [330, pytest.param(11_000, marks=pytest.mark.slow)])
def test_a_flood_of_bad_requests(api, target, sessions, number):
    process, port = api
    statuses, before = {}, None
    cases = islice(Flood(target, seed=number), number)
    for done, case in enumerate(cases):
        if done == number // 10:
            before = process.memory_info().rss
        answer = ask(port, case.wire, 0.3 if case.kind in UNFINISHED else 30.0)
        status = status_of(answer)
        assert status is None or status < 500, (case.kind, case.wire[:3000], answer)
        assert CANARY.encode() not in answer, (case.kind, case.wire[:3000], answer)
        statuses.setdefault(case.kind, Counter())[status] += 1
    grown = process.memory_info().rss - before
    print()
    for kind, found in statuses.items():
        shown = ", ".join(f"{status or 'hung up'}: {count}" for status, count in sorted(found.items(), key=str))
        print(f"{kind:20} {found.total():6} cases   {shown}")
    print(f"{number} cases, 0 answers of 5xx, 0 bytes of another project, memory {grown / 2**20:+.1f} MB")
    assert grown < MARGIN
    assert all(any(status and status >= 400 for status in found) for found in statuses.values())
    with sessions() as session:
        other = keys.ensure_project(session, f"project {CANARY}")
        assert len(jobs.page(session, other).jobs) == len(target.others)  # all still there, and as they were
        assert {job.last_event for job in jobs.page(session, other).jobs} == {1, 5}
        for kind, parameter in ((datasets, "dataset_id"), (programs, "program_id")):
            kept = [one.row.id for one in kind.page(session, other).stored]
            assert sorted(kept) == sorted(target.their_uploads[parameter])
    good = httpx.post(
        f"http://127.0.0.1:{port}/v1/jobs", json=document(), headers={"Authorization": f"Bearer {target.key}"}
    )
    assert good.status_code == 202


def test_the_same_seed_gives_the_same_flood(target):
    first, again, other = (list(islice(Flood(target, seed), 50)) for seed in (1, 1, 2))
    assert first == again != other


def test_the_canary_would_be_seen(api, target, sessions):
    _, port = api
    key = keys.new_key()
    with sessions.begin() as session:
        keys.add(session, keys.ensure_project(session, f"project {CANARY}"), key)
    asking = Flood(target, 0)
    paths = [f"/v1/jobs/{target.others[0]}{path}" for path in ("", "/iterations")] + [
        "/v1/programs",
        "/v1/datasets",
    ]
    paths.append(f"/v1/programs/{target.their_uploads['program_id'][0]}")
    for path in paths:
        wire = asking.request("GET", path, key=key)
        assert CANARY.encode() in ask(port, wire)
