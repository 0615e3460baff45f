"""Learned hyperparameters, unconstrained, after each number of updates; and the checkpoint to go on from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.records import Checkpoint, Values
from core.store.arrays import decode, encode
from core.store.errors import NothingLearned, Pruned, UnknownIteration
from core.store.models import Job, LearnedValue, OptimizerLeaf, SavedCheckpoint

_LOOKS = 3

Which = Literal["best", "last"] | int


class Learned(NamedTuple):
    """Values with the number of updates that led to them."""

    iteration: int
    values: Values


def read(session: Session, job: Job, which: Which, names: Sequence[str] | None = None) -> Learned:
    """The job's values after `which` updates; those of some hyperparameters, if named.

    Raises:
        NothingLearned: no meta-iteration has finished, or the initial point is not yet known.
        UnknownIteration: the job has not come that far.
        Pruned: it has, but those values were not kept.
    """
    for _ in range(_LOOKS):
        session.refresh(job)
        iteration = _number(job, which)
        if values := values_at(session, job.id, iteration, names):
            return Learned(iteration, values)
        # its worker may have moved on meanwhile, and pruned. It is not kept from that: readers could starve it
    kept = kept_iterations(session, job.id)
    raise Pruned(iteration, kept) if kept else NothingLearned(job.state)


def _number(job: Job, which: Which) -> int:
    named = {"best": job.best_iteration, "last": job.meta_iteration or None}
    iteration = named[which] if isinstance(which, str) else which
    if iteration is None:
        raise NothingLearned(job.state)
    if not 0 <= iteration <= job.meta_iteration:
        raise UnknownIteration(iteration, job.meta_iteration)
    return iteration


def values_at(session: Session, job_id: UUID, iteration: int, names: Sequence[str] | None = None) -> Values:
    """Values by name, of some hyperparameters if named; none when they were not kept."""
    query = select(LearnedValue).where(LearnedValue.job_id == job_id, LearnedValue.iteration == iteration)
    if names is not None:
        query = query.where(LearnedValue.name.in_(names))
    return {row.name: decode(row) for row in session.scalars(query.order_by(LearnedValue.name))}


def values_over_time(
    session: Session, job_id: UUID, names: Sequence[str], *, iterations: Sequence[int] | None = None
) -> dict[int, Values]:
    """Those of some hyperparameters, of every iteration that was kept, or of those among them that are asked for."""
    query = select(LearnedValue).where(LearnedValue.job_id == job_id, LearnedValue.name.in_(names))
    if iterations is not None:
        query = query.where(LearnedValue.iteration.in_(iterations))
    found: dict[int, Values] = {}
    for row in session.scalars(query):
        found.setdefault(row.iteration, {})[row.name] = decode(row)
    return found


def kept_iterations(session: Session, job_id: UUID) -> list[int]:
    """Iterations whose values there are, in order."""
    query = select(LearnedValue.iteration).where(LearnedValue.job_id == job_id).distinct()
    return sorted(session.scalars(query))


def save_values(session: Session, job_id: UUID, iteration: int, values: Values) -> None:
    """Keep values; a second time changes nothing."""
    for name, array in values.items():
        row = {"job_id": job_id, "iteration": iteration, "name": name, **encode(array)}
        session.execute(insert(LearnedValue).values(row).on_conflict_do_nothing())


def prune(session: Session, job_id: UUID, keep: set[int]) -> None:
    """Forget the values of all other iterations."""
    session.execute(delete(LearnedValue).where(LearnedValue.job_id == job_id, LearnedValue.iteration.not_in(keep)))


def save_checkpoint(session: Session, job_id: UUID, checkpoint: Checkpoint) -> None:
    """Replace the job's checkpoint. Its values become those of its iteration."""
    save_values(session, job_id, checkpoint.iteration, checkpoint.values)
    session.execute(delete(SavedCheckpoint).where(SavedCheckpoint.job_id == job_id))
    row = {name: getattr(checkpoint, name) for name in ("iteration", "first_norm", "stopped")}
    session.execute(insert(SavedCheckpoint).values(job_id=job_id, **row))
    for number, leaf in enumerate(checkpoint.optimizer_state):
        session.execute(insert(OptimizerLeaf).values(job_id=job_id, leaf=number, **encode(leaf)))


def load_checkpoint(session: Session, job_id: UUID) -> Checkpoint | None:
    """Where the job goes on; None when it has to start."""
    row = session.execute(
        select(
            SavedCheckpoint.iteration,
            SavedCheckpoint.first_norm,
            SavedCheckpoint.stopped,
            Job.best_iteration,
            Job.best_outer_loss,
        )
        .join(Job, Job.id == SavedCheckpoint.job_id)
        .where(SavedCheckpoint.job_id == job_id)
    ).one_or_none()
    if row is None:
        return None
    leaves = session.scalars(
        select(OptimizerLeaf).where(OptimizerLeaf.job_id == job_id).order_by(OptimizerLeaf.leaf)
    )
    return Checkpoint(
        iteration=row.iteration,
        values=values_at(session, job_id, row.iteration),
        optimizer_state=[decode(leaf) for leaf in leaves],
        best_iteration=row.best_iteration,
        best_outer_loss=row.best_outer_loss,
        first_norm=row.first_norm,
        stopped=row.stopped,
    )
