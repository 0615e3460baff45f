"""Jobs, records and waiting, for tests."""

import copy
import time

import numpy as np

from core.records import Checkpoint, Losses, MetaRecord
from core.shapes import groups_for
from core.spec import JobSpec
from core.store import jobs, leases

SMALL = {
    "name": "small",
    "problem": {
        "kind": "classifier",
        "dataset": {"name": "digits", "split": {"train": 200, "valid": 100, "test": 100}},
        "model": {"kind": "logistic_regression"},
        "outer_loss": "valid",
    },
    "training": {"num_steps": 10, "batch_size": 100, "seed": "fresh"},
    "hyperparameters": {
        "step_size": {"learn": True, "per": ["step", "group"], "initial": 0.3, "transform": "log"},
        "momentum": {"learn": True, "initial": 0.5},
        "l2": {"initial": 0.001},
    },
    "meta": {"num_iterations": 4, "evaluation_seeds": 2},
}


def document(changes=None):
    """The small job with some fields changed: {"training.num_steps": 0}. `...` removes a field."""
    changed = copy.deepcopy(SMALL)
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        place = changed
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return changed


def create(sessions, project, **options):
    """A queued job's id."""
    with sessions.begin() as session:
        return create_in(session, project, **options)


def create_in(session, project, *, max_snapshot_bytes=1 << 20, queue="cpu", preset=None):
    spec = JobSpec.model_validate(SMALL)
    return jobs.create(
        session,
        project,
        spec,
        preset=preset,
        queue=queue,
        groups=groups_for(spec),
        max_snapshot_bytes=max_snapshot_bytes,
    ).id


def claim(sessions, job_id, seconds=60.0):
    with sessions.begin() as session:
        return leases.claim(session, job_id, seconds)


def read(sessions, project, job_id):
    with sessions.begin() as session:
        return jobs.get(session, project, job_id)


def values(number):
    return {"step_size": np.full((10, 2), -1.0 + number / 7), "momentum": np.array(number / 3)}


def record(number, *, outer=1.0, best=None, best_loss=None, **certificate):
    """The meta-iteration `number` of the small job."""
    proof = {
        "exact": True,
        "engine": "reversible",
        "mode": "fused",
        "mismatched_bits": 0,
        "stored_bits_per_param_step": 1.5,
        "bound_bits_per_param_step": 1.0,
    }
    return MetaRecord(
        iteration=number,
        values=values(number),
        losses=Losses(outer, 0.5, outer, 0.7),
        hypergradient_norm=0.1,
        seconds=2.0,
        certificate=proof | certificate,
        is_best=best == number,
        checkpoint=Checkpoint(
            iteration=number + 1,
            values=values(number + 1),
            optimizer_state=[np.array(number, np.int32), np.full((10, 2), 0.1 * number), np.array(0.25)],
            best_iteration=best,
            best_outer_loss=best_loss,
            first_norm=0.1,
            stopped=False,
        ),
    )


def eventually(condition, seconds=30.0):
    """The first true value of `condition()`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)
    return value
