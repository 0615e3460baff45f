"""A database as a service's after years: jobs, meta-iterations and events by the million, written set by set in SQL.

The tables, constraints and indexes are those of the migrations. Rows are plausible and small: the specification of the
preset digits-schedules, nine meta-iterations a job (sixty for every fortieth), and an event for all that happened.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import psycopg
from psycopg import sql

from core import presets
from core.shapes import groups_for
from core.store import keys
from core.store.arrays import as_json

SHARES = (60, 25, 10, 4, 1)  # per cent of the jobs that each project has
PRESETS = ("digits-schedules", "toy-two-weights", "chaos", "memory")
PRESET = PRESETS[0]
FEW, MANY, EVERY = 9, 60, 40  # meta-iterations of a job, and of every fortieth

# the n-th job, of n from 1 on, as an SQL expression
_SHARE = "mod(n * 37, 100)"  # neighbours in time belong to different projects
_STATE = """CASE
    WHEN mod(n, 1000) < 2 THEN 'running'
    WHEN mod(n, 1000) < 12 THEN 'queued'
    WHEN mod(n, 1000) < 22 THEN 'paused'
    WHEN mod(n, 1000) < 100 THEN 'failed'
    WHEN mod(n, 1000) < 180 THEN 'cancelled'
    ELSE 'succeeded' END"""
_DONE = f"CASE WHEN mod(n, 1000) BETWEEN 2 AND 21 THEN 0 WHEN mod(n, {EVERY}) = 0 THEN {MANY} ELSE {FEW} END"
_CERTIFICATE = {
    "exact": True,
    "engine": "reversible",
    "mode": "fused",
    "mismatched_bits": 0,
    "stored_bits_per_param_step": 1.52,
    "bound_bits_per_param_step": 1.5,
}


class Filled(NamedTuple):
    """What there is now."""

    keys: list[str]  # an API key of every project, the largest first
    projects: list[UUID]
    rows: dict[str, int]  # by table


def fill(url: str, jobs: int, *, histories: bool = True) -> Filled:
    """Fill the migrated, empty database at `url`, with meta-iterations and events if `histories`.

    Statistics are up to date when it returns.
    """
    with psycopg.connect(url.replace("+psycopg", "", 1)) as connection:
        connection.execute("SET synchronous_commit = off")
        made = [keys.new_key() for _ in SHARES]
        projects = [_project(connection, number, key) for number, key in enumerate(made)]
        connection.execute(_jobs(projects), {"jobs": jobs, **_constants()})
        # the others are right by how they are made: checking ten million references would take most of the time
        connection.execute("SET session_replication_role = replica")
        if histories:
            connection.execute(_ITERATIONS, {"certificate": json.dumps(_CERTIFICATE)})
            connection.execute(_EVENTS)
    with psycopg.connect(url.replace("+psycopg", "", 1), autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")
        rows = {table: _count(connection, table) for table in ("jobs", "iterations", "events")}
    return Filled(made, projects, rows)


def _project(connection: psycopg.Connection, number: int, key: str) -> UUID:
    row = connection.execute(
        "INSERT INTO projects (id, name) VALUES (gen_random_uuid(), %s) RETURNING id", [f"project {number}"]
    ).fetchone()
    assert row is not None
    connection.execute(
        "INSERT INTO api_keys (id, project_id, prefix, sha256) VALUES (gen_random_uuid(), %s, %s, sha256(%s))",
        [row[0], key[:9], key.encode()],
    )
    return row[0]


def _constants() -> dict[str, str]:
    spec = presets.get(PRESET)
    groups = [{"name": group.name, "shape": list(group.shape)} for group in groups_for(spec)]
    losses = dict.fromkeys(("outer", "train", "valid", "test"), 0.123) | {"measures": {"test_accuracy": 0.9}}
    return {
        "spec": json.dumps(as_json(spec.model_dump(mode="json"))),
        "sha256": spec.sha256(),
        "groups": json.dumps(groups),
        "losses": json.dumps({"initial": losses, "best": losses, "last": losses}),
        "provenance": json.dumps({"device": "cpu", "versions": {"jax": "0.10.2"}, "spec_sha256": spec.sha256()}),
        "certificate": json.dumps(_CERTIFICATE),
        "error": json.dumps({"code": "diverged", "message": "training diverged at step 17", "details": {}}),
    }


def _jobs(projects: Sequence[UUID]) -> str:
    """The n-th job was made n seconds after the first, the last one just now."""
    bounds, cases = 0, []
    for project, share in zip(projects, SHARES, strict=True):
        bounds += share
        cases.append(f"WHEN {_SHARE} < {bounds} THEN '{project}'::uuid")
    names = ", ".join(f"'{name}'" for name in PRESETS)
    columns = {
        "id": "gen_random_uuid()",
        "project_id": f"CASE {' '.join(cases)} END",
        "name": "'schedules ' || n",
        "preset": f"(ARRAY[{names}])[1 + mod(n / 7, 5)]",  # one in five is of none
        "spec": "%(spec)s::jsonb",
        "spec_sha256": "%(sha256)s",
        "queue": "'cpu'",
        "state": "state",
        "cancel_requested": "state = 'cancelled'",
        "error": "CASE WHEN state = 'failed' THEN %(error)s::jsonb END",
        "attempt": "CASE WHEN done > 0 THEN 1 ELSE 0 END",
        "attempts_without_progress": "0",
        "lease_epoch": "CASE WHEN done > 0 THEN 1 ELSE 0 END",
        "lease_expires_at": "CASE WHEN state = 'running' THEN now() + interval '1 day' END",
        "created_at": "at",
        "published_at": "CASE WHEN state = 'queued' THEN now() + interval '1 day' ELSE at END",  # none is overdue
        "started_at": "CASE WHEN done > 0 THEN at + interval '1 s' END",
        "last_progress_at": "CASE WHEN done > 0 THEN at + interval '9 s' END",
        "ended_at": "CASE WHEN state IN ('succeeded', 'failed', 'cancelled') THEN at + interval '10 s' END",
        "last_event": "CASE state WHEN 'queued' THEN 1 WHEN 'paused' THEN 2 ELSE done + 4 END"
        " - (state = 'running')::int",
        "groups": "%(groups)s::jsonb",
        "num_hyperparameters": "1608",
        "num_iterations": f"CASE WHEN mod(n, {EVERY}) = 0 THEN {MANY} ELSE {FEW} END",
        "keeps_every_iteration": "true",
        "meta_iteration": "done",
        "seconds_per_iteration": "CASE WHEN done > 0 THEN 0.9 END",
        "latest_outer_loss": "CASE WHEN done > 0 THEN 0.1 + random() END",
        "best_outer_loss": "CASE WHEN done > 0 THEN 0.1 END",
        "best_iteration": "CASE WHEN done > 0 THEN done END",
        "certificate": "CASE WHEN done > 0 THEN %(certificate)s::jsonb || jsonb_build_object('iterations', done) END",
        "losses": "CASE WHEN state = 'succeeded' THEN %(losses)s::jsonb ELSE '{}'::jsonb END",
        "provenance": "CASE WHEN done > 0 THEN %(provenance)s::jsonb END",
        "device": "CASE WHEN done > 0 THEN 'cpu' END",
    }
    row = f"""
        SELECT n, now() - make_interval(secs => %(jobs)s - n) AS at, {_STATE} AS state, {_DONE} AS done
        FROM generate_series(1, %(jobs)s) AS n
    """
    return f"INSERT INTO jobs ({', '.join(columns)}) SELECT {', '.join(columns.values())} FROM ({row}) AS made"


_ITERATIONS = """
    INSERT INTO iterations
        (job_id, iteration, outer_loss, train_loss, valid_loss, test_loss, hypergradient_norm, seconds, certificate,
         attempt, lease_epoch, created_at)
    SELECT job.id, i, random(), random(), random(), random(), random(), 0.9, %(certificate)s::jsonb, 1, 1,
        job.created_at + make_interval(secs => i)
    FROM (SELECT id, created_at, meta_iteration FROM jobs ORDER BY id) AS job, generate_series(0, meta_iteration - 1) i
"""
_EVENTS = """
    INSERT INTO events (job_id, number, kind, data, created_at)
    SELECT job.id, i,
        CASE WHEN i > 1 AND (state = 'paused' OR i = meta_iteration + 4) THEN state
            WHEN i <= 3 THEN (ARRAY['created', 'started', 'begun'])[i] ELSE 'iteration' END,
        CASE WHEN i BETWEEN 4 AND meta_iteration + 3
            THEN jsonb_build_object('iteration', i - 4, 'outer_loss', random()) ELSE '{}'::jsonb END,
        job.created_at + make_interval(secs => i)
    FROM (SELECT id, created_at, last_event, meta_iteration, state FROM jobs ORDER BY id) AS job,
        generate_series(1, last_event) i
"""


def _count(connection: psycopg.Connection, table: str) -> int:
    row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
    assert row is not None
    return int(row[0])
