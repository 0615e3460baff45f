"""Whatever owners, workers and janitors do in whatever order, each job's row, events and outbox say the same."""

from functools import partial

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import select, text, update

from core.store import jobs, keys, leases, outbox
from core.store.errors import Fenced, StateConflict, UnknownJob
from core.store.models import Event, Job, MetaIteration, WakeUp
from tests import builders
from tests.life import ENDED, MAX_ATTEMPTS, UNENDED, Life, state_told_by

TABLES = (
    "jobs",
    "events",
    "iterations",
    "learned_values",
    "checkpoints",
    "optimizer_leaves",
    "measured_arrays",
    "outbox",
)
PUBLISH_AGAIN_AFTER = 30  # seconds
MOST_JOBS = 3  # at once: with more, few would come far in the steps of an example

OWNERS = {
    "pause": (jobs.pause, Life.pause_it),
    "resume": (jobs.resume, Life.resume_it),
    "retry": (jobs.retry, Life.retry_it),
    "cancel": (jobs.cancel, Life.cancel_it),
    "delete": (jobs.remove, Life.may_be_deleted),
}


def save_start(session, lease, _):
    found = {"initial": None, "searched": None}
    leases.save_start(session, lease, builders.values(0), found, {"device": "cpu"})


def save_iteration(session, lease, number):
    return leases.save_iteration(session, lease, builders.record(number, best=0, best_loss=1.0))


def succeed(session, lease, _):
    leases.succeed(session, lease, best_iteration=0, evaluations={}, arrays={}, provenance={})


WORKERS = {  # what is written, given the number of a meta-iteration
    "renew": (lambda session, lease, _: leases.renew(session, lease, 60.0), Life.renew),
    "save_start": (save_start, Life.save_start),
    "save_iteration": (save_iteration, Life.save_next_iteration),
    "save_iteration_again": (save_iteration, Life.save_last_iteration_again),  # its commit's answer was lost
    "succeed": (succeed, partial(Life.end, state="succeeded")),
    "fail": (lambda session, lease, _: leases.fail(session, lease, "code", "it did", {}), Life.fail),
    "obey_cancel": (
        lambda session, lease, _: leases.cancelled(session, lease),
        partial(Life.end, state="cancelled"),
    ),
    "give_back": (lambda session, lease, _: leases.give_back(session, lease), Life.give_back),
}
ACTS = [
    "create",
    *OWNERS,
    *WORKERS,
    "cancel_all",
    "publish",
    "republish",
    *["resume", "retry", "claim", "claim", "claim", "falls_silent", "falls_silent", "reap", "reap"],  # to go round
]


class Lives(RuleBasedStateMachine):
    """One project's jobs in the real store beside `Life` in memory, compared after every step.

    One rule with the act drawn, as Hypothesis leaves out rules at random: with a rule for each, few examples would have
    all of those that a job needs to go round.
    """

    def __init__(self, sessions):
        super().__init__()
        self.sessions = sessions
        self.lives = {}  # by id, in order of creation
        self.ids = []  # also of what is deleted
        self.leases = {}  # by id, all that were ever given

    @initialize()
    def begin(self):
        with self.sessions.begin() as session:
            session.execute(text("DELETE FROM projects"))
            self.project = keys.ensure_project(session, "machine")
        self.create()

    @rule(act=st.sampled_from(ACTS), number=st.integers(0, MOST_JOBS - 1), current=st.sampled_from([1, 1, 1, 0]))
    def step(self, act, number, current):
        """Someone does something to the job of this number; a worker, by its current lease or an earlier one."""
        job_id = self.ids[-1 - number % len(self.ids)]
        if act in OWNERS:
            self.owner(job_id, *OWNERS[act])
        elif act in WORKERS:
            if given := self.leases.get(job_id):
                self.worker(given[-1 if current else 0], *WORKERS[act])
        elif act in ("claim", "falls_silent"):
            getattr(self, act)(job_id)
        elif act in ("publish", "republish"):
            getattr(self, act)(number)
        else:
            getattr(self, act)()

    def do(self, operation, *arguments, **options):
        with self.sessions.begin() as session:
            return operation(session, *arguments, **options)

    def create(self):
        if len(self.lives) < MOST_JOBS:
            job_id = builders.create(self.sessions, self.project)
            self.lives[job_id] = Life()
            self.ids.append(job_id)

    def owner(self, job_id, operation, allowed):
        """Done, refused in the job's state, or about nothing, as the model says."""
        life = self.lives.get(job_id)
        if life is None:
            with pytest.raises(UnknownJob):
                self.do(operation, self.project, job_id)
        elif allowed(life):
            self.do(operation, self.project, job_id)
            if operation is jobs.remove:
                del self.lives[job_id]
        else:
            with pytest.raises(StateConflict) as conflict:
                self.do(operation, self.project, job_id)
            assert conflict.value.state == life.state

    def cancel_all(self):
        found, more = self.do(jobs.cancel_all, self.project)
        concerned = {job_id for job_id, life in self.lives.items() if life.state in UNENDED and not life.cancel}
        assert (set(found), more) == (concerned, False)
        for job_id in concerned:
            self.lives[job_id].cancel_it()

    def claim(self, job_id):
        lease = self.do(leases.claim, job_id, 60.0)
        life = self.lives.get(job_id)
        if life is None or not life.claim():
            assert lease is None
            return
        assert (lease.epoch, lease.attempt) == (life.epoch, life.attempt)
        self.leases.setdefault(job_id, []).append(lease)

    def worker(self, lease, write, becomes):
        """As the model says; under a lease that is no longer current, fenced, and nothing changes."""
        life = self.lives.get(lease.job_id)
        if life is not None and life.is_held_at(lease.epoch):
            wish = self.do(write, lease, becomes(life))
            if isinstance(wish, leases.Wish):
                assert wish.name == life.wish()
            return
        before = self.everything()
        with pytest.raises(Fenced):
            self.do(write, lease, 0)
        assert self.everything() == before

    def falls_silent(self, job_id):
        """The worker is killed or frozen: its lease runs out. A frozen one may yet write until the job is reaped."""
        life = self.lives.get(job_id)
        if life is not None and life.state == "running":
            self.ago("lease_expires_at", job_id, 1)
            life.lease_is_over = True

    def reap(self):
        lost = [life for life in self.lives.values() if life.state == "running" and life.lease_is_over]
        assert self.do(leases.reap, MAX_ATTEMPTS) == len(lost)
        for life in lost:
            life.reap()

    def publish(self, broken_at):
        """All that waits is sent; with a broker that breaks in between, nothing is forgotten."""
        waiting = {job_id for job_id, life in self.lives.items() if life.to_publish}
        sent = []

        def send(job_id, queue):
            assert queue == "cpu"
            if len(sent) == broken_at:
                raise ConnectionError
            sent.append(job_id)

        if broken_at < len(waiting):
            with pytest.raises(ConnectionError):
                self.do(outbox.publish, send)
            assert set(sent) <= waiting
            return
        assert self.do(outbox.publish, send) == len(waiting)
        assert sorted(sent) == sorted(waiting)
        for job_id in waiting:
            self.lives[job_id].to_publish = False

    def republish(self, number):
        """The broker was wiped: a job that has waited long is published again."""
        overdue = list(self.lives)[number : number + 1]
        for job_id in overdue:
            self.ago("published_at", job_id, PUBLISH_AGAIN_AFTER + 1)
        waiting = [job_id for job_id in overdue if self.lives[job_id].state == "queued"]
        assert self.do(outbox.overdue_queues, PUBLISH_AGAIN_AFTER) == (["cpu"] if waiting else [])
        assert self.do(lambda session: outbox.republish(session, "cpu", PUBLISH_AGAIN_AFTER, drained=True)) == len(
            waiting
        )
        for job_id in waiting:
            self.lives[job_id].to_publish = True

    @invariant()
    def the_rows_are_as_the_model(self):
        with self.sessions() as session:
            found = {job.id: job for job in session.scalars(select(Job))}
            told = session.execute(select(Event.job_id, Event.number, Event.kind).order_by(Event.number)).all()
            waiting = set(session.scalars(select(WakeUp.job_id)))
            kept = session.execute(select(MetaIteration.job_id, MetaIteration.iteration)).all()
        assert set(found) == set(self.lives)
        assert waiting == {job_id for job_id, life in self.lives.items() if life.to_publish}
        for job_id, life in self.lives.items():
            job = found[job_id]
            kinds = [kind for one, _, kind in told if one == job_id]
            assert {name: getattr(job, name) for name in life.row()} == life.row()
            assert kinds == life.events
            assert sorted(number for one, number in kept if one == job_id) == list(range(life.done))
            # and these hold by the rows alone, whatever the model says
            assert [number for one, number, _ in told if one == job_id] == list(range(1, job.last_event + 1))
            assert state_told_by(kinds) == job.state
            assert (job.ended_at is not None) == (job.state in ENDED)
            assert (job.error is not None) == (job.state == "failed")
            assert (job.lease_expires_at is not None) == (job.state == "running")
            assert job.lease_epoch == job.attempt == kinds.count("started")
            assert not (job.pause_requested and job.state != "running")

    def everything(self):
        with self.sessions() as session:
            return {
                table: sorted(map(repr, session.execute(text(f"SELECT * FROM {table}")).all())) for table in TABLES
            }

    def ago(self, column, job_id, seconds):
        with self.sessions.begin() as session:
            then = text(f"clock_timestamp() - interval '{seconds} s'")
            session.execute(update(Job).where(Job.id == job_id).values({column: then}))


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("examples", "steps"), [(15, 30), pytest.param(250, 50, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_lives_of_jobs_are_as_the_model_says(sessions, examples, steps):
    run_state_machine_as_test(
        partial(Lives, sessions),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_an_epoch_that_stands_still_is_noticed(sessions):
    machine = Lives(sessions)
    machine.begin()
    (job_id,) = machine.ids
    for act in ("claim", "falls_silent"):
        getattr(machine, act)(job_id)
    machine.reap()
    machine.claim(job_id)
    machine.the_rows_are_as_the_model()
    with sessions.begin() as session:
        session.execute(update(Job).values(lease_epoch=Job.lease_epoch - 1))
    with pytest.raises(AssertionError):
        machine.the_rows_are_as_the_model()


def test_an_event_that_is_missing_is_noticed(sessions):
    machine = Lives(sessions)
    machine.begin()
    machine.the_rows_are_as_the_model()
    with sessions.begin() as session:
        session.execute(text("DELETE FROM events"))
    with pytest.raises(AssertionError):
        machine.the_rows_are_as_the_model()
