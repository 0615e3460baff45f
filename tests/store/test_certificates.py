"""The certificate kept with a job is that of all rows together, by an aggregate over them as oracle."""

import math
import random

import pytest
from alembic import command
from sqlalchemy import text

from core.store import leases, migrate
from core.store.certificates import joined
from tests.builders import claim, create, read, record
from tests.store.test_leases import write

CHOICES = {
    "exact": [True, True, False],
    "engine": ["reversible", "reversible", "hybrid", "unrolled", ""],
    "mode": ["fused", "isolated", ""],
    "mismatched_bits": [0, 0, 3, None],
    "stored_bits_per_param_step": [1.5, 2.25, math.inf, None],
    "bound_bits_per_param_step": [0.5, 1.0, None],
}


def drawn(seed):
    choose = random.Random(seed)
    return [{name: choose.choice(values) for name, values in CHOICES.items()} for _ in range(choose.randint(1, 4))]


def oracle(rows):
    rows = [row for row in rows if row["engine"]]
    if not rows:
        return None
    of = {name: [row[name] for row in rows] for name in CHOICES}
    finite = {
        name: [one for one in of[name] if one is not None and math.isfinite(one)] for name in of if "bits" in name
    }
    return {
        "exact": all(of["exact"]),
        "iterations": len(rows),
        "mismatched_bits": None if None in of["mismatched_bits"] else sum(of["mismatched_bits"]),
        **{name: max(finite[name], default=None) for name in finite if name.endswith("param_step")},
        **{name: ", ".join(sorted({one for one in of[name] if one})) or None for name in ("engine", "mode")},
    }


@pytest.mark.parametrize("seed", range(8))
def test_the_kept_certificate_is_that_of_all_rows(sessions, project, seed):
    job_id, rows = create(sessions, project), drawn(seed)
    lease = claim(sessions, job_id)
    for number, row in enumerate(rows):
        write(sessions, leases.save_iteration, lease, record(number, **row))
        write(sessions, leases.save_iteration, lease, record(number, **row))  # its answer was lost
        assert read(sessions, project, job_id).certificate == oracle(rows[: number + 1])


def test_jobs_from_before_get_theirs_in_the_migration(settings, sessions, project):
    expected = {}
    for seed in range(12):
        job_id, rows = create(sessions, project), drawn(seed)
        lease = claim(sessions, job_id)
        for number, row in enumerate(rows):
            write(sessions, leases.save_iteration, lease, record(number, **row))
        expected[job_id] = oracle(rows)
    configuration = migrate.configuration(settings.database_url)
    command.downgrade(configuration, "0003")
    command.upgrade(configuration, "head")
    with sessions() as session:
        found = dict(session.execute(text("SELECT id, certificate FROM jobs")).all())
    assert found == expected
    assert None in expected.values() or len(expected) == 12


def test_what_certifies_nothing_changes_nothing():
    proof = record(0).certificate
    total = joined(None, proof)
    assert joined(total, {"exact": False, "engine": ""}) == total
    assert joined(None, {"exact": False}) is None
    assert joined(total, proof | {"exact": False}) != total
