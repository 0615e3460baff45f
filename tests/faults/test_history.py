"""The rules that every fault is judged by: a good history passes, and for each rule there is one that breaks it."""

from dataclasses import replace
from uuid import uuid4

import numpy as np
import pytest

from core.records import Evaluation, Losses
from core.store import jobs, leases, outbox
from core.store.events import Kind
from core.store.models import ENDED, State
from tests.builders import claim, create, record, values
from tests.faults import history
from tests.faults.history import ENDS, MACHINE, RULES, RULES_AT_REST, SHOWN, Done, History, Told, violations
from tests.store.test_leases import expire, write

FOUND = Evaluation(Losses(1.0, 2.0, 3.0, 4.0), {})
CURVES = {"learning_curve.initial": np.zeros(3), "learning_curve.best": np.ones(3)}


def finish(sessions, lease):
    found = {"initial": FOUND, "best": FOUND, "last": FOUND}
    write(sessions, leases.succeed, lease, best_iteration=1, evaluations=found, arrays=CURVES, provenance={})


@pytest.fixture
def eventful(sessions, project):
    """The id of a job to which much has happened, and which succeeded."""
    job_id = create(sessions, project)
    lease = claim(sessions, job_id)
    write(sessions, leases.save_start, lease, values(0), {"initial": FOUND}, {"device": "cpu"})
    write(sessions, leases.save_iteration, lease, record(0, best=0, best_loss=1.0))
    write(sessions, jobs.pause, project, job_id)
    write(sessions, leases.give_back, lease)
    write(sessions, jobs.resume, project, job_id)
    claim(sessions, job_id)
    expire(sessions, job_id)
    write(sessions, leases.reap, 3)
    lease = claim(sessions, job_id)
    write(sessions, leases.save_iteration, lease, record(1, best=1, best_loss=0.5))
    write(sessions, leases.fail, lease, "diverged", "it did", {})
    write(sessions, jobs.retry, project, job_id)
    lease = claim(sessions, job_id)
    finish(sessions, lease)
    return job_id


def test_a_real_history_breaks_no_rule(sessions, eventful):
    with sessions.begin() as session:
        outbox.publish(session, lambda job_id, queue: None)
    seen = {eventful: ["queued", "running", "running", "paused", "failed", "running", "succeeded"]}
    (found,) = history.check(sessions, accepted=[eventful], seen=seen)
    assert found.path()[-1] == found.state == "succeeded"
    assert [row.lease_epoch for row in found.iterations] == [1, 3]


def test_a_job_that_still_waits_at_rest_is_stuck(sessions, project, eventful):
    other = create(sessions, project)
    with pytest.raises(AssertionError, match=f"{other}: waiting: stuck: still queued"):
        history.check(sessions)
    with pytest.raises(AssertionError, match="lost"):
        history.check(sessions, accepted=[uuid4()], at_rest=False)
    history.check(sessions, at_rest=False)


def good():
    """A job that was lost by its worker once, and then succeeded."""
    kinds = ["created", "started", "begun", "iteration", "requeued", "started", "iteration", "succeeded"]
    numbers, attempts = iter(range(2)), iter((1, 2))
    events = [
        Told(
            number,
            kind,
            {"iteration": next(numbers)}
            if kind == "iteration"
            else {"attempt": next(attempts)}
            if kind == "started"
            else {},
        )
        for number, kind in enumerate(kinds, 1)
    ]
    return History(
        id=uuid4(),
        kind="learn",
        state="succeeded",
        attempt=2,
        lease_epoch=2,
        lease_expired=False,
        held=False,
        last_event=8,
        meta_iteration=2,
        best_iteration=1,
        losses=frozenset({"initial", "best", "last"}),
        events=events,
        iterations=[Done(0, 1, 1), Done(1, 2, 2)],
        learned=frozenset({0, 1, 2}),
        checkpoint=2,
        measured=frozenset({"learning_curve.initial", "learning_curve.best"}),
        in_outbox=False,
        seen=("queued", "running", "running", "succeeded"),
    )


def renumbered(events):
    return [event._replace(number=number) for number, event in enumerate(events, 1)]


def _twice_started(was):
    events = renumbered([*was.events[:6], was.events[5], *was.events[6:]])
    return replace(was, events=events, last_event=9)


BAD = {
    "word: started twice": ("word", _twice_started),
    "word: something after its end": (
        "word",
        lambda was: replace(was, events=[*was.events, Told(9, "cancelled", {})], last_event=9, state="cancelled"),
    ),
    "word: succeeded twice": (
        "word",
        lambda was: replace(was, events=[*was.events, Told(9, "succeeded", {})], last_event=9),
    ),
    "word: a state without its event": ("word", lambda was: replace(was, state="cancelled")),
    "word: begins without being created": (
        "word",
        lambda was: replace(was, events=renumbered(was.events[1:]), last_event=7),
    ),
    "word: unknown": ("word", lambda was: replace(was, events=[was.events[0]._replace(kind="melted")])),
    "numbers: a gap": ("numbers", lambda was: replace(was, events=[*was.events[:2], *was.events[3:]])),
    "numbers: the last is missing": ("numbers", lambda was: replace(was, last_event=9)),
    "epochs: the same twice": (
        "epochs",
        lambda was: replace(
            was,
            events=[
                event._replace(data={"attempt": 1}) if event.kind == "started" else event for event in was.events
            ],
        ),
    ),
    "epochs: a start that was not told": ("epochs", lambda was: replace(was, lease_epoch=3)),
    "iterations: one is missing": ("iterations", lambda was: replace(was, iterations=was.iterations[1:])),
    "iterations: one was written by a worker that had lost the job": (
        "iterations",
        lambda was: replace(was, iterations=[Done(0, 1, 1), Done(1, 1, 1)]),
    ),
    "iterations: told twice": (
        "iterations",
        lambda was: replace(
            was, events=renumbered([*was.events[:4], was.events[3], *was.events[4:]]), last_event=9
        ),
    ),
    "result: no values": ("result", lambda was: replace(was, learned=frozenset({0}))),
    "result: no losses": ("result", lambda was: replace(was, losses=frozenset({"initial"}))),
    "result: nothing measured": ("result", lambda was: replace(was, measured=frozenset())),
    "result: of a job that did not succeed": ("result", lambda was: replace(was, state="failed")),
    "checkpoint: behind": ("checkpoint", lambda was: replace(was, checkpoint=1)),
    "seen: an end that did not last": (
        "seen",
        lambda was: replace(was, seen=("running", "cancelled", "running", "succeeded")),
    ),
    "seen: back from the end": ("seen", lambda was: replace(was, seen=("running", "succeeded", "running"))),
    "waiting: running for ever": (
        "waiting",
        lambda was: replace(was, events=was.events[:7], last_event=7, state="running", lease_expired=True),
    ),
    "outbox: a wake-up for a job that has ended": ("outbox", lambda was: replace(was, in_outbox=True)),
}


def test_a_good_history_breaks_no_rule():
    was = good()
    assert violations([was], accepted=[was.id]) == []


@pytest.mark.parametrize(("rule", "spoil"), BAD.values(), ids=BAD)
def test_a_bad_history_breaks_its_rule(rule, spoil):
    found = violations([spoil(good())])
    assert any(f": {rule}: " in one for one in found), found


def test_every_rule_has_a_history_that_breaks_it():
    assert {rule for rule, _ in BAD.values()} == {*RULES, *RULES_AT_REST}


def test_a_job_that_is_nowhere_is_lost():
    assert violations([], accepted=[uuid4()])[0].endswith("it was accepted and is nowhere")


def test_a_job_that_waits_for_its_owner_is_not_stuck():
    events = [Told(1, "created", {}), Told(2, "paused", {})]
    paused = replace(
        good(), state="paused", events=events, last_event=2, attempt=0, lease_epoch=0, meta_iteration=0,
        iterations=[], checkpoint=None, losses=frozenset(), measured=frozenset(), seen=(),
    )  # fmt: skip
    assert violations([paused]) == []


def test_the_machine_knows_every_event_and_every_state():
    assert {kind for after in MACHINE.values() for kind in after} == {kind.value for kind in Kind}
    assert {SHOWN.get(state, state) for state in MACHINE} - {"none"} == {state.value for state in State}
    assert set(ENDS) == {state.value for state in ENDED}
    reached = {"none"} | {state for after in MACHINE.values() for state in after.values()}
    assert reached == set(MACHINE)


def test_an_end_is_left_by_a_retry_alone():
    assert {kind for end in ENDS for kind, after in MACHINE[end].items() if after != end} == {"retried"}
