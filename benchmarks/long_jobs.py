"""Jobs of ten thousand meta-iterations, written into a filled database: losses, events, and what was learned."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psycopg

from core import presets
from core.shapes import groups_for
from core.spec import JobSpec
from core.store.arrays import as_json

STEPS, GROUPS = 1250, 8
VALUES = STEPS * GROUPS
CERTIFICATE = {
    "exact": True,
    "engine": "reversible",
    "mode": "fused",
    "mismatched_bits": 0,
    "stored_bits_per_param_step": 1.006,
    "bound_bits_per_param_step": 1.0,
}


def specification(iterations: int) -> JobSpec:
    """Of the preset digits-schedules, trained for longer: a step size for every step and group, 10 000 in all."""
    document = presets.get("digits-schedules").model_dump(mode="json")
    document["training"]["num_steps"] = STEPS
    document["meta"]["num_iterations"] = iterations
    hypers = document["hyperparameters"]
    for name, hyper in hypers.items():
        if hyper is not None:
            hyper["learn"] = name == "step_size"
    hypers["step_size"]["per"] = ["step", "group"]
    return JobSpec.model_validate(document)


def add(url: str, project: UUID, iterations: int, *, number: int, values: bool) -> UUID:
    """One job that has succeeded after so many meta-iterations; with what it learned in every one of them, if `values`.

    Without, the values are those that a job too large to keep them all keeps: the initial, the best and the last.
    """
    spec = specification(iterations)
    job_id = uuid4()
    groups = [{"name": group.name, "shape": list(group.shape)} for group in groups_for(spec)]
    if len(groups) != GROUPS:
        raise ValueError(f"the preset has {len(groups)} groups, and {GROUPS} were counted on")
    best = int(iterations * 0.97)
    losses = dict.fromkeys(("outer", "train", "valid", "test"), 0.1) | {"measures": {"test_accuracy": 0.95}}
    with psycopg.connect(url.replace("+psycopg", "", 1)) as connection:
        connection.execute("SET synchronous_commit = off")
        row: dict[str, Any] = {
            "id": job_id,
            "project_id": project,
            "name": f"a long one, {number}",
            "spec": json.dumps(as_json(spec.model_dump(mode="json"))),
            "spec_sha256": spec.sha256(),
            "queue": "cpu",
            "state": "succeeded",
            "cancel_requested": False,
            "attempt": 1,
            "attempts_without_progress": 0,
            "lease_epoch": 1,
            "groups": json.dumps(groups),
            "num_hyperparameters": VALUES,
            "num_iterations": iterations,
            "keeps_every_iteration": values,
            "meta_iteration": iterations,
            "seconds_per_iteration": 1.0,
            "latest_outer_loss": 0.21,
            "best_outer_loss": 0.2,
            "best_iteration": best,
            "last_event": iterations + 4,
            "certificate": json.dumps(CERTIFICATE | {"iterations": iterations}),
            "losses": json.dumps({"initial": losses, "best": losses, "last": losses}),
            "provenance": json.dumps({"device": "cpu", "spec_sha256": spec.sha256()}),
            "device": "cpu",
        }
        times = ", ".join(f"now() - interval '{hours} h'" for hours in (4, 4, 4, 1, 1))
        places = ", ".join(f"%({name})s" for name in row)
        connection.execute(
            f"INSERT INTO jobs ({', '.join(row)}, created_at, published_at, started_at, last_progress_at, ended_at) "
            f"VALUES ({places}, {times})",
            row,
        )
        told = {"job": job_id, "last": iterations, "certificate": json.dumps(CERTIFICATE)}
        connection.execute(_ITERATIONS, told)
        connection.execute(_EVENTS, told)
        kept = range(iterations + 1) if values else (0, best, iterations)
        _learned(connection, job_id, kept, iterations)
    return job_id


_ITERATIONS = """
    INSERT INTO iterations
        (job_id, iteration, outer_loss, train_loss, valid_loss, test_loss, hypergradient_norm, seconds, certificate,
         attempt, lease_epoch)
    SELECT %(job)s, i, fallen + 0.02 * random(), fallen * 0.9, fallen + 0.01 * random(), fallen * 1.1,
        exp(-i / 4000.0) * (0.5 + random()), 1.0, %(certificate)s::jsonb, 1, 1
    FROM (SELECT i, 0.2 + 1.8 * exp(-i / 1500.0) AS fallen FROM generate_series(0, %(last)s - 1) AS i) AS made
"""
_EVENTS = """
    INSERT INTO events (job_id, number, kind, data)
    SELECT %(job)s, i,
        CASE WHEN i <= 3 THEN (ARRAY['created', 'started', 'begun'])[i] WHEN i = %(last)s + 4 THEN 'succeeded'
            ELSE 'iteration' END,
        CASE WHEN i BETWEEN 4 AND %(last)s + 3
            THEN jsonb_build_object('iteration', i - 4, 'outer_loss', random()) ELSE '{}'::jsonb END
    FROM generate_series(1, %(last)s + 4) AS i
"""


def _learned(connection: psycopg.Connection, job_id: UUID, kept: Any, iterations: int) -> None:
    """Logarithms of step sizes that come to fall over training, with some noise of their own."""
    draw = np.random.default_rng(0)
    falls = np.linspace(0, 2, STEPS)[:, None] * np.linspace(0.5, 1.5, GROUPS)
    noise = draw.normal(0, 0.1, (STEPS, GROUPS))
    with connection.cursor().copy(
        "COPY learned_values (job_id, iteration, name, shape, dtype, data) FROM STDIN WITH (FORMAT BINARY)"
    ) as copy:
        copy.set_types(["uuid", "int4", "text", "int8[]", "varchar", "bytea"])
        for iteration in kept:
            share = iteration / iterations
            values = (-1.0 - share * (falls + noise)).astype("<f8")
            copy.write_row((job_id, iteration, "step_size", [STEPS, GROUPS], "<f8", values.tobytes()))
