"""What a database must look like after any fault: rules over the jobs, their events and their meta-iterations.

Events are numbered under the lock of their job, so a job's events are its history in the order of its commits, and no
clock is needed to check it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from core.store.models import Event, Job, LearnedValue, MeasuredArray, MetaIteration, SavedCheckpoint, WakeUp

# The state machine: what may happen in each state, and the state after. A running job that is to be cancelled or paused
# is in a state of its own. An event that is not listed must not happen: so the ends are left by a retry alone.
_WORK = ("begun", "trial", "iteration")
_BESIDE = ("webhook_disabled", "webhook_enabled")  # may happen at any time, and change no state
_STATES: Mapping[str, Mapping[str, str]] = {
    "none": {"created": "queued"},
    "queued": {"held": "queued", "started": "running", "paused": "paused", "cancelled": "cancelled"},
    "running": {
        **dict.fromkeys(_WORK, "running"),
        "pause_requested": "pausing",
        "cancel_requested": "cancelling",
        "requeued": "queued",
        "succeeded": "succeeded",
        "failed": "failed",
    },
    "pausing": {
        **dict.fromkeys(_WORK, "pausing"),
        "paused": "paused",
        "resumed": "running",
        "cancel_requested": "cancelling after pausing",
        "succeeded": "succeeded",
        "failed": "failed",
    },
    "cancelling": {
        **dict.fromkeys(_WORK, "cancelling"),
        "cancelled": "cancelled",
        "succeeded": "succeeded",
        "failed": "failed",
    },
    "cancelling after pausing": {
        **dict.fromkeys(_WORK, "cancelling after pausing"),
        "resumed": "cancelling",
        "cancelled": "cancelled",
        "succeeded": "succeeded",
        "failed": "failed",
    },
    "paused": {"resumed": "queued", "cancelled": "cancelled"},
    "succeeded": {},
    "failed": {"retried": "queued"},
    "cancelled": {"retried": "queued"},
}
MACHINE = {
    state: {**after, **(dict.fromkeys(_BESIDE, state) if state != "none" else {})}
    for state, after in _STATES.items()
}
SHOWN = {"pausing": "running", "cancelling": "running", "cancelling after pausing": "running"}  # to clients
ENDS = ("succeeded", "failed", "cancelled")


class Told(NamedTuple):
    """An event."""

    number: int
    kind: str
    data: Mapping[str, Any]


class Done(NamedTuple):
    """A row of a meta-iteration."""

    iteration: int
    attempt: int
    lease_epoch: int


@dataclass(frozen=True)
class History:
    """All that is known of one job."""

    id: UUID
    kind: str  # of its spec
    state: str
    attempt: int
    lease_epoch: int
    lease_expired: bool
    held: bool  # it waits for its project's quotas
    last_event: int
    meta_iteration: int
    best_iteration: int | None
    losses: frozenset[str]
    events: Sequence[Told]
    iterations: Sequence[Done]
    learned: frozenset[int]  # iterations whose values are kept
    checkpoint: int | None
    measured: frozenset[str]
    in_outbox: bool
    seen: Sequence[str] = field(default=())  # states that a client saw, in order

    def path(self) -> list[str]:
        """States gone through, up to the first event that the machine does not know."""
        states = ["none"]
        for event in self.events:
            after = MACHINE[states[-1]].get(event.kind)
            if after is None:
                break
            states.append(after)
        return states


def read(session: Session, seen: Mapping[UUID, Sequence[str]] | None = None) -> list[History]:
    """Every job's history. `seen`: states that clients saw of a job, in order."""
    rows = session.execute(
        select(Job, (Job.lease_expires_at < func.clock_timestamp()).label("expired")).order_by(Job.created_at)
    ).all()
    events = _grouped(session.execute(select(Event.job_id, Event.number, Event.kind, Event.data)), Told)
    done = _grouped(
        session.execute(
            select(MetaIteration.job_id, MetaIteration.iteration, MetaIteration.attempt, MetaIteration.lease_epoch)
        ),
        Done,
    )
    learned = _grouped(session.execute(select(LearnedValue.job_id, LearnedValue.iteration).distinct()))
    measured = _grouped(session.execute(select(MeasuredArray.job_id, MeasuredArray.name)))
    checkpoints = {
        row.job_id: row.iteration
        for row in session.execute(select(SavedCheckpoint.job_id, SavedCheckpoint.iteration))
    }
    outbox = set(session.scalars(select(WakeUp.job_id)))
    return [
        History(
            id=job.id,
            kind=job.spec["kind"],
            state=job.state.value,
            attempt=job.attempt,
            lease_epoch=job.lease_epoch,
            lease_expired=bool(expired),
            held=job.held,
            last_event=job.last_event,
            meta_iteration=job.meta_iteration,
            best_iteration=job.best_iteration,
            losses=frozenset(job.losses),
            events=sorted(events.get(job.id, ())),
            iterations=sorted(done.get(job.id, ())),
            learned=frozenset(learned.get(job.id, ())),
            checkpoint=checkpoints.get(job.id),
            measured=frozenset(measured.get(job.id, ())),
            in_outbox=job.id in outbox,
            seen=tuple((seen or {}).get(job.id, ())),
        )
        for job, expired in rows
    ]


def violations(histories: Iterable[History], *, accepted: Iterable[UUID] = (), at_rest: bool = True) -> list[str]:
    """What breaks a rule; empty when all is well.

    Args:
        histories: of all jobs there are.
        accepted: ids that clients were promised.
        at_rest: whether whatever can go on has had the time to: then nothing may still wait for a machine.
    """
    histories = list(histories)
    lost = set(accepted) - {history.id for history in histories}
    found = [f"{job_id}: lost: it was accepted and is nowhere" for job_id in lost]
    for name, rule in {**RULES, **(RULES_AT_REST if at_rest else {})}.items():
        found += [f"{history.id}: {name}: {what}" for history in histories for what in rule(history)]
    return found


def check(
    sessions: sessionmaker[Session],
    *,
    accepted: Iterable[UUID] = (),
    seen: Mapping[UUID, Sequence[str]] | None = None,
    at_rest: bool = True,
    seconds: float = 0.0,
) -> list[History]:
    """Read every job's history and fail on any that breaks a rule, still, after `seconds` to come to rest."""
    deadline = time.monotonic() + seconds
    while True:
        with sessions() as session:
            histories = read(session, seen)
        found = violations(histories, accepted=accepted, at_rest=at_rest)
        if not found or time.monotonic() > deadline:
            break
        time.sleep(0.05)  # polls
    assert not found, "\n".join(found)
    return histories


def _word(history: History) -> Iterator[str]:
    """Events are a word of the machine that leads to the state the job is in."""
    path = history.path()
    if len(path) <= len(history.events):
        yield f"{history.events[len(path) - 1].kind} cannot happen to a job that is {path[-1]}"
    elif SHOWN.get(path[-1], path[-1]) != history.state:
        yield f"its events lead to {path[-1]}, but it is {history.state}"


def _numbers(history: History) -> Iterator[str]:
    """Events are numbered 1 to `last_event`, each once."""
    numbers = [event.number for event in history.events]
    if numbers != list(range(1, history.last_event + 1)):
        yield f"events {numbers}, but last_event is {history.last_event}"


def _epochs(history: History) -> Iterator[str]:
    """Every start has an attempt and an epoch of its own, one more than the one before."""
    attempts = [event.data.get("attempt") for event in history.events if event.kind == "started"]
    if attempts != list(range(1, len(attempts) + 1)):
        yield f"attempts {attempts} of its starts do not count up"
    if not len(attempts) == history.attempt == history.lease_epoch:
        yield f"{len(attempts)} starts, but attempt {history.attempt} and epoch {history.lease_epoch}"


def _iterations(history: History) -> Iterator[str]:
    """Meta-iterations 0 to n−1 are there once each, told in order, and written by whoever held the job then."""
    rows = [row.iteration for row in history.iterations]
    if rows != list(range(history.meta_iteration)):
        yield f"rows {rows}, but {history.meta_iteration} are done"
    told, attempt = [], 0
    for event in history.events:
        attempt += event.kind == "started"
        if event.kind == "iteration":
            told.append((event.data.get("iteration"), attempt, attempt))
    if told != [tuple(row) for row in history.iterations]:
        yield f"told as {told} (iteration, attempt, epoch), but kept as {[tuple(r) for r in history.iterations]}"


def _result(history: History) -> Iterator[str]:
    """A success has one result, whole; nothing else has one."""
    if history.state != "succeeded":
        if history.measured or not {"best", "last"}.isdisjoint(history.losses):
            yield f"{history.state}, but there is a result: {sorted(history.measured | history.losses)}"
        return
    if (times := sum(event.kind == "succeeded" for event in history.events)) != 1:
        yield f"it succeeded {times} times"
    if missing := {"initial", "best", "last"} - history.losses:
        yield f"no losses {sorted(missing)}"
    if missing_values := {0, history.best_iteration, history.meta_iteration} - history.learned:
        yield f"no values of iterations {missing_values}"
    if history.kind == "learn" and "learning_curve.best" not in history.measured:
        yield f"no learning curve, only {sorted(history.measured)}"


def _checkpoint(history: History) -> Iterator[str]:
    """What a job goes on from is what it has told."""
    if (history.checkpoint or 0) != history.meta_iteration:
        yield f"checkpoint {history.checkpoint}, but {history.meta_iteration} meta-iterations are done"


def _seen(history: History) -> Iterator[str]:
    """What clients saw did happen, in that order."""
    states = iter([SHOWN.get(state, state) for state in history.path()])
    before = None
    for state in history.seen:
        if state != before and state not in states:  # consumes `states` up to it
            yield f"seen as {_shortened(history.seen)}, which is not how it went"
            return
        before = state


def _waiting(history: History) -> Iterator[str]:
    """At rest a job has ended, or waits for its owner or its project's quotas."""
    if history.state not in (*ENDS, "paused") and not history.held:
        yield f"stuck: still {history.state}" + (" with a lease that ran out" if history.lease_expired else "")


def _outbox(history: History) -> Iterator[str]:
    """At rest no wake-up waits for a job that needs none."""
    if history.in_outbox and history.state != "queued":
        yield f"a wake-up waits, but it is {history.state}"


Rule = Callable[[History], Iterator[str]]
RULES: Mapping[str, Rule] = {
    "word": _word,
    "numbers": _numbers,
    "epochs": _epochs,
    "iterations": _iterations,
    "result": _result,
    "checkpoint": _checkpoint,
    "seen": _seen,
}
RULES_AT_REST: Mapping[str, Rule] = {"waiting": _waiting, "outbox": _outbox}


def _shortened(states: Sequence[str]) -> list[str]:
    return [state for before, state in zip((None, *states), states, strict=False) if state != before]


def _grouped(rows: Iterable[Any], make: Callable[..., Any] | None = None) -> dict[UUID, list[Any]]:
    """Rows by their first column."""
    groups: dict[UUID, list[Any]] = {}
    for job_id, *rest in rows:
        groups.setdefault(job_id, []).append(make(*rest) if make else rest[0])
    return groups


def ends(histories: Iterable[History]) -> Counter[str]:
    """How many jobs stand in each state."""
    return Counter(history.state for history in histories)
