"""The task that a message wakes: run one job. Joins the numerics and the store."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy.orm import Session, sessionmaker

from core.config import get_settings
from core.errors import UNTRAINABLE
from core.records import Checkpoint, Evaluation, Values
from core.store import learned, leases
from core.store.leases import Lease
from core.store.session import open_store
from worker import scratch, tidy
from worker.app import RUN_JOB, app
from worker.lease import HeldLease, end_process, leased
from worker.signals import stopping
from worker.uploads import fetched

if TYPE_CHECKING:
    from core.learning import Learner


@app.task(name=RUN_JOB)
def run_job(job_id: str) -> None:
    """Run one job to its end. Returns at once unless this worker wins the lease."""
    import core.learning  # noqa: F401 - JAX: takes seconds and memory that are not the job's, so before it is claimed

    if stopping.is_set():
        return
    settings = get_settings()
    try:
        with leased(_sessions(), UUID(job_id), settings, stopping) as lease:
            if lease is not None:
                learn(lease, UUID(job_id), settings.scratch)
    except Exception:  # its job is back in the queue; nobody knows what this process is worth, and another comes
        end_process()
    tidy.tidy(settings.worker_memory_bytes)


def learn(lease: HeldLease, job_id: UUID, keep_in: Path | None = None) -> None:
    """Learn from where the job stands, saving every meta-iteration, and keep the result."""
    from core.learning import Learner  # JAX; only in the child, after its settings

    work = lease.run(leases.work)
    folder = scratch.folder_for(keep_in, job_id) if work.spec.training.checkpoints > 1 else None
    learner = Learner.from_spec(work.spec, given=fetched(lease, work.spec), interrupt=lease.check, keep_in=folder)
    trials = list(work.trials)
    for trial in learner.search(trials):
        trials.append(trial)
        lease.heed(lease.run(leases.save_trial, trial))
    start, starts = learner.start(trials), work.starts
    if not starts:
        initial = learner.initial()
        more_to_come = bool(trials) or work.spec.kind == "scan"  # than where the spec starts: that may diverge
        starts = {"initial": _evaluate(learner, initial) if more_to_come else learner.evaluate(initial)}
        if trials:
            starts["searched"] = _evaluate(learner, start)
        lease.run(leases.save_start, start, starts, learner.provenance())
    checkpoint = work.checkpoint
    for record in learner.run(checkpoint, start):
        lease.heed(lease.run(leases.save_iteration, record))
        checkpoint = record.checkpoint
    if checkpoint is None:
        raise RuntimeError("no meta-iteration was run")
    _keep_result(lease, learner, starts, checkpoint)
    scratch.remove(folder)


def _keep_result(
    lease: HeldLease, learner: Learner, starts: dict[str, Evaluation | None], checkpoint: Checkpoint
) -> None:
    """Compare on the evaluation seeds: while learning, fresh seeds make the lowest loss partly luck."""
    evaluated = {0: starts.get("searched", starts["initial"])}
    for iteration in sorted({checkpoint.best_iteration or 0, checkpoint.iteration} - {0}):
        evaluated[iteration] = _evaluate(learner, lease.run(_values, iteration))
    best = min(evaluated, key=lambda iteration: _rank(evaluated[iteration]))
    lease.run(
        leases.succeed,
        best_iteration=best,
        evaluations=starts | {"best": evaluated[best], "last": evaluated[checkpoint.iteration]},
        arrays=learner.arrays(checkpoint, lease.run(_values, best)),
        provenance=learner.provenance(),
    )


def _values(session: Session, lease: Lease, iteration: int) -> Values:
    return learned.values_at(session, lease.job_id, iteration)


def _evaluate(learner: Learner, values: Values) -> Evaluation | None:
    """None where training cannot be done with them: such values are not the best, but no reason to lose the others."""
    try:
        return learner.evaluate(values)
    except UNTRAINABLE:
        return None


def _rank(found: Evaluation | None) -> float:
    return math.inf if found is None or math.isnan(found.losses.outer) else found.losses.outer


@cache
def _sessions() -> sessionmaker[Session]:
    return open_store(get_settings().database_url, application="retrograd worker")
