"""What a client may do and sees, over HTTP, is what the model of a job's life says; workers act through the store."""

from functools import partial
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import text

from core.store import leases
from tests.api.problems import assert_problem
from tests.builders import document, record
from tests.life import ENDED, MAX_ATTEMPTS, UNENDED, Life

MOST_JOBS = 3
CALLS = {"cancel": Life.cancel_it, "pause": Life.pause_it, "resume": Life.resume_it, "retry": Life.retry_it}
WORKERS = {
    "succeed": (
        lambda session, lease, _: leases.succeed(
            session, lease, best_iteration=0, evaluations={}, arrays={}, provenance={}
        ),
        partial(Life.end, state="succeeded"),
    ),
    "fail": (lambda session, lease, _: leases.fail(session, lease, "diverged", "it did", {}), Life.fail),
    "give_back": (lambda session, lease, _: leases.give_back(session, lease), Life.give_back),
    "save_iteration": (
        lambda session, lease, number: leases.save_iteration(
            session, lease, record(number, best=0, best_loss=1.0)
        ),
        Life.save_next_iteration,
    ),
}
ACTS = ["create", *CALLS, "delete", "cancel_all", *["claim", "claim", "resume", "retry"], *WORKERS, "is_lost"]


class Lives(RuleBasedStateMachine):
    """Jobs of one project as a client sees them beside `Life` in memory."""

    def __init__(self, client, sessions):
        super().__init__()
        self.client, self.sessions = client, sessions
        self.lives = {}  # by id, in order of creation
        self.leases = {}
        self.ids = []  # also of what is deleted

    @initialize()
    def begin(self):
        with self.sessions.begin() as session:
            session.execute(text("DELETE FROM jobs"))
        self.create()

    @rule(act=st.sampled_from(ACTS), number=st.integers(0, MOST_JOBS - 1))
    def step(self, act, number):
        job_id = self.ids[-1 - number % len(self.ids)]
        if act in CALLS:
            self.call(job_id, act)
        elif act in WORKERS:
            self.worker(job_id, *WORKERS[act])
        elif act in ("create", "cancel_all"):
            getattr(self, act)()
        else:
            getattr(self, act)(job_id)

    def create(self):
        if len(self.lives) < MOST_JOBS:
            answer = self.client.post("/v1/jobs", json=document())
            assert answer.status_code == 202
            job = answer.json()
            self.lives[job["id"]] = Life()
            self.ids.append(job["id"])
            self.shows(job)

    def call(self, job_id, act):
        answer = self.client.post(f"/v1/jobs/{job_id}/{act}")
        if job_id not in self.lives:
            assert_problem(answer, 404, "unknown_job")
        elif CALLS[act](self.lives[job_id]):
            assert answer.status_code == 202
            self.shows(answer.json())
        else:
            assert assert_problem(answer, 409, "state_conflict")["state"] == self.lives[job_id].state

    def delete(self, job_id):
        answer = self.client.delete(f"/v1/jobs/{job_id}")
        if job_id not in self.lives:
            assert_problem(answer, 404, "unknown_job")
        elif self.lives[job_id].may_be_deleted():
            assert answer.status_code == 204
            del self.lives[job_id]
        else:
            assert assert_problem(answer, 409, "state_conflict")["state"] == self.lives[job_id].state

    def cancel_all(self):
        answer = self.client.post("/v1/jobs/cancel", params={"state": "queued"})
        assert answer.status_code == 202
        queued = [job_id for job_id, life in self.lives.items() if life.state == "queued"]
        assert sorted(answer.json()["data"]) == sorted(queued)
        for job_id in queued:
            self.lives[job_id].cancel_it()

    def claim(self, job_id):
        with self.sessions.begin() as session:
            lease = leases.claim(session, UUID(job_id), 60.0)
        won = job_id in self.lives and self.lives[job_id].claim()
        assert (lease is not None) == won
        if won:
            self.leases[job_id] = lease

    def worker(self, job_id, write, becomes):
        life, lease = self.lives.get(job_id), self.leases.get(job_id)
        if life is not None and lease is not None and life.is_held_at(lease.epoch):
            with self.sessions.begin() as session:
                write(session, lease, becomes(life))

    def is_lost(self, job_id):
        """Its worker is killed, and the janitor finds that out."""
        life = self.lives.get(job_id)
        if life is not None and life.state == "running":
            life.lease_is_over = True
            with self.sessions.begin() as session:
                then = "UPDATE jobs SET lease_expires_at = clock_timestamp() - interval '1 s' WHERE id = :id"
                session.execute(text(then), {"id": job_id})
            with self.sessions.begin() as session:
                assert leases.reap(session, MAX_ATTEMPTS) == 1
            life.reap()

    def shows(self, job):
        life = self.lives[job["id"]]
        told = ("state", "cancel_requested", "pause_requested", "attempt")
        assert {name: job[name] for name in told} == {name: life.row()[name] for name in told}
        assert job["progress"]["meta_iteration"] == life.done
        assert (job["ended_at"] is not None) == (life.state in ENDED)
        assert (job["error"] is not None) == (life.state == "failed")

    @invariant()
    def a_client_sees_the_model(self):
        listed = self.client.get("/v1/jobs").json()["data"]
        assert [job["id"] for job in listed] == list(self.lives)[::-1]
        by_state = self.client.get("/v1/jobs", params={"state": "paused"}).json()["data"]
        assert {job["id"] for job in by_state} == {
            job_id for job_id, life in self.lives.items() if life.state == "paused"
        }
        for job in listed:
            answer = self.client.get(f"/v1/jobs/{job['id']}")
            self.shows(answer.json())
            assert {name: answer.json()[name] for name in job} == job
            assert ("Retry-After" in answer.headers) == (job["state"] in UNENDED)
            rows = self.client.get(f"/v1/jobs/{job['id']}/iterations").json()["data"]
            assert [row["iteration"] for row in rows] == list(range(self.lives[job["id"]].done))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("examples", "steps"), [(5, 25), pytest.param(150, 40, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_a_client_sees_what_the_model_says(client, sessions, examples, steps):
    run_state_machine_as_test(
        partial(Lives, client, sessions),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_wrong_model_is_noticed(client, sessions):
    machine = Lives(client, sessions)
    machine.begin()
    (job_id,) = machine.ids
    machine.claim(job_id)
    machine.call(job_id, "cancel")
    machine.a_client_sees_the_model()
    machine.lives[job_id].end("cancelled")  # as an impatient client may think
    with pytest.raises(AssertionError):
        machine.a_client_sees_the_model()
