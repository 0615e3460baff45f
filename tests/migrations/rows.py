"""One project's plausible rows for every table, whichever of their columns a revision has.

Documents as JSON; Postgres itself reads them as rows, so that bytes, arrays and times are written as it writes them.
"""

import json
from uuid import UUID

from psycopg import sql

COLUMNS = """
    SELECT column_name FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name = %s ORDER BY ordinal_position
"""
TABLES = """
    SELECT table_name FROM information_schema.tables
    WHERE table_schema = 'public' AND table_name <> 'alembic_version' ORDER BY table_name
"""
TALLIES = """
    SELECT ROW(project_id, sum(queued_jobs), sum(running_jobs), sum(stored_bytes))::text
    FROM tallies GROUP BY project_id
"""

MORNING, NOON, NIGHT = "2026-03-01T08:00:00.123456+00", "2026-03-01T12:00:00+00", "2026-03-01T23:59:59.999999+00"
ARRAY = {"shape": [2, 3], "dtype": "<f8", "data": "\\x" + "00ff7f80" * 12}
STATES = ("queued", "running", "paused", "succeeded", "failed", "cancelled")
ENDED = STATES[3:]


def documents(owner):
    """(table, row) in an order that foreign keys allow; `owner` is a number from 0 to 255, another for every project."""

    def ident(kind, number=0):
        return str(UUID(int=(owner << 64) | (kind << 32) | number))

    project = ident(1)
    made = {"created_at": MORNING}
    yield "projects", {"id": project, "name": f"project {owner}", "quotas": {"queued": 10}} | made
    yield (
        "api_keys",
        {
            "id": ident(2),
            "project_id": project,
            "name": "laptop",
            "prefix": f"rg_abc{owner}",
            "sha256": f"\\x{owner:064x}",
            "scopes": ["read"],
            "last_used_at": NOON,
            "revoked_at": NIGHT,
        }
        | made,
    )
    yield "usage", {"project_id": project, "day": "2026-03-01", "device_seconds": 12.5}
    yield "blobs", {"sha256": f"{owner:064x}", "size": 1 << 40} | made
    dataset = f"ds_{owner}"
    named = {"id": dataset, "project_id": project, "name": "mine 🎓", "sha256": f"{owner:064x}"}
    yield "datasets", named | {"summary": {"examples": 100, "classes": [0, 1]}} | made
    empty = f"{owner + 256:064x}"  # as the way down takes its bytes off the tallies, which are otherwise unchanged
    yield "blobs", {"sha256": empty, "size": 0} | made
    program = f"pr_{owner}"
    named = {"id": program, "project_id": project, "name": "net 🎓", "sha256": empty}
    yield "programs", named | {"summary": {"num_steps": 50, "deterministic": True}} | made
    for number, state in enumerate(STATES):
        job = ident(3, number)
        of_job = {"job_id": job}
        yield "jobs", _job(job, project, dataset, state) | {"program_id": program} | made
        yield "job_data", of_job | {"name": "train", "dataset_id": dataset}
        yield "trials", of_job | {"number": 0, "values": {"step_size": -1.5}, "outer_loss": 0.1 + 0.2}
        for iteration in range(2):
            yield "iterations", of_job | _iteration(iteration) | made
            yield "learned_values", of_job | ARRAY | {"iteration": iteration, "name": "step_size"}
        yield "measured_arrays", of_job | ARRAY | {"name": "learning_curve.best"}
        yield "checkpoints", of_job | {"iteration": 2, "first_norm": 1e-300, "stopped": state == "succeeded"}
        yield "optimizer_leaves", of_job | ARRAY | {"leaf": 0}
        told = {"number": 1, "kind": "created", "data": {"largest": None}}
        yield "events", of_job | told | made
        tracked = {"event": 1, "attempt": 2, "next_attempt_at": NOON, "run_id": "ab12", "last_error": "away"}
        yield "tracked_ends", of_job | tracked | made
        yield "outbox", of_job | {"queue": "cpu"} | made
        asked = {"project_id": project, "key": f"key {number}", "request_sha256": f"\\x{number:064x}"}
        yield "idempotency_keys", asked | of_job | made
        yield "webhooks", of_job | {"url": "https://example.org/x", "secret": "whsec_x", "disabled_at": NIGHT}
        delivery = {"id": ident(4, number), "kind": f"job.{state}", "payload": '{"a": 1}', "attempt": 2}
        times = {"next_attempt_at": NOON, "delivered_at": NIGHT, "last_error": "503"}
        yield "deliveries", of_job | delivery | times | made


def _job(job, project, dataset, state):
    return {
        "id": job,
        "project_id": project,
        "name": f"späti {state}",
        "preset": "digits-schedules",
        "spec": {"name": state, "training": {"num_steps": 10, "seed": "fresh"}},
        "spec_sha256": "ab" * 32,
        "dataset_id": dataset,
        "queue": "gpu",
        "state": state,
        "cancel_requested": state == "cancelled",
        "pause_requested": state == "running",
        "error": {"code": "diverged", "message": "it did", "details": {}} if state == "failed" else None,
        "attempt": 2,
        "attempts_without_progress": 1,
        "lease_epoch": 1 << 40,
        "lease_expires_at": NOON if state == "running" else None,
        "published_at": MORNING,
        "started_at": NOON,
        "last_progress_at": NOON,
        "ended_at": NIGHT if state in ENDED else None,
        "last_event": 1,
        "accounted_at": NOON,
        "device_seconds": 3.25,
        "groups": [{"name": "layer_1.weights", "shape": [64, 10]}],
        "num_hyperparameters": 21,
        "num_iterations": 4,
        "keeps_every_iteration": True,
        "meta_iteration": 2,
        "seconds_per_iteration": 0.1,
        "latest_outer_loss": "NaN",
        "best_outer_loss": 0.1 + 0.2,
        "best_iteration": 1,
        "losses": {"initial": {"outer": 1.0, "train": None}},
        "certificate": {"exact": True, "mismatched_bits": 0},
        "held": state == "queued",
        "stored_bytes": 21 * 8 * 3,
        "provenance": {"versions": {"jax": "0.10.2"}},
        "device": "cpu: test",
    }


def _iteration(number):
    losses = {f"{part}_loss": 0.1 * number for part in ("outer", "train", "valid")} | {"test_loss": "Infinity"}
    proof = {"exact": True, "mismatched_bits": 0, "stored_bits_per_param_step": 1.5}
    measured = {"certificate": proof, "diagnostics": {"seconds": 1.0}, "hypergradient_norm": 1e-17}
    return losses | measured | {"iteration": number, "seconds": 2.0, "attempt": 1, "lease_epoch": 1}


def fill(connection, owner):
    """Insert the rows of one project into the tables, and the columns, that there are."""
    tables = shape(connection)
    for table, document in documents(owner):
        if table not in tables or (document.get("state") == "paused" and "dataset_id" not in tables[table]):
            continue  # not yet: pausing came with data sets of one's own
        if table != "jobs" and document.get("job_id") and not _exists(connection, document["job_id"]):
            continue
        shown = sql.SQL(", ").join(map(sql.Identifier, [name for name in tables[table] if name in document]))
        connection.execute(
            sql.SQL("INSERT INTO {0} ({1}) SELECT {1} FROM jsonb_populate_record(NULL::{0}, %s)").format(
                sql.Identifier(table), shown
            ),
            [json.dumps(document)],
        )


def _exists(connection, job_id):
    return connection.execute("SELECT 1 FROM jobs WHERE id = %s", [job_id]).fetchone()


def names(connection):
    return [name for (name,) in connection.execute(TABLES).fetchall()]


def columns(connection, table):
    return [name for (name,) in connection.execute(COLUMNS, [table]).fetchall()]


def shape(connection):
    """{table: columns} as they are."""
    return {table: columns(connection, table) for table in names(connection)}


def contents(connection, shape):
    """Every table's rows as sorted text, of these columns, by table; without jobs that are or were paused.

    Of tallies their sums, which are what they say.
    """
    found = {}
    for table, known in shape.items():
        if table == "tallies":
            found[table] = sorted(row for (row,) in connection.execute(TALLIES).fetchall())
            continue
        query = sql.SQL("SELECT ROW({})::text FROM {} WHERE {}").format(
            sql.SQL(", ").join(map(sql.Identifier, known)),
            sql.Identifier(table),
            sql.SQL("name <> 'späti paused'" if table == "jobs" else "true"),
        )
        found[table] = sorted(row for (row,) in connection.execute(query).fetchall())
    return found
