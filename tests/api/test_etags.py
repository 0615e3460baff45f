"""A job's version changes exactly when what is shown of it does."""

import random
from uuid import UUID

import pytest

from api import etags
from api.schemas.jobs import JobRead
from core.records import Evaluation, Losses, Trial
from core.store import jobs, leases, webhooks
from core.store.errors import Fenced, StateConflict
from core.store.models import Job
from tests.builders import claim, create, document, read, record, values
from tests.store.test_leases import expire, write

FOUND = Evaluation(Losses(1.0, 2.0, 3.0, 4.0), {"test_accuracy": 0.5})


@pytest.fixture
def job(client):
    return client.post("/v1/jobs", json=document())


def test_a_version_that_is_known_is_not_sent_again(client, sessions, job):
    url = job.headers["Location"]
    etag = client.get(url).headers["ETag"]
    assert etag == job.headers["ETag"]
    known = client.get(url, headers={"If-None-Match": etag})
    assert (known.status_code, known.content) == (304, b"")
    assert (known.headers["ETag"], known.headers["Retry-After"]) == (etag, "2")
    claim(sessions, UUID(job.json()["id"]))
    changed = client.get(url, headers={"If-None-Match": etag})
    assert (changed.status_code, changed.json()["state"]) == (200, "running")
    assert changed.headers["ETag"] != etag


def test_if_none_match_is_a_list_of_versions(client, job):
    etag = job.headers["ETag"]
    strong = etag.removeprefix("W/")
    for same in (etag, strong, f'"x", {etag}', f'W/"x" ,{strong},', "*"):
        assert client.get(job.headers["Location"], headers={"If-None-Match": same}).status_code == 304
    for other in ('"x"', "", "W/", strong.strip('"'), '"*"', f"{etag}x"):
        assert client.get(job.headers["Location"], headers={"If-None-Match": other}).status_code == 200


def test_another_jobs_version_is_another(client, job):
    other = client.post("/v1/jobs", json=document()).headers["ETag"]
    assert other != job.headers["ETag"]
    assert client.get(job.headers["Location"], headers={"If-None-Match": other}).status_code == 200


def test_a_version_of_another_projects_job_is_not_told(client, sessions, job):
    from core.store import keys

    key = keys.new_key()
    with sessions.begin() as session:
        keys.add(session, keys.ensure_project(session, "other"), key)
    headers = {"Authorization": f"Bearer {key}", "If-None-Match": "*"}
    assert client.get(job.headers["Location"], headers=headers).status_code == 404


class Walk:
    """A job on which anything may be done at any time."""

    def __init__(self, sessions, project, seed):
        self.sessions, self.project, self.choose = sessions, project, random.Random(seed)
        self.job_id, self.lease, self.done, self.trials = create(sessions, project), None, 0, 0

    def step(self):
        """Do something, whether or not it is allowed; returns what it was."""
        own = [jobs.pause, jobs.resume, jobs.cancel, jobs.retry]
        what = self.choose.choice([*own, "claim", "reap", *(["work"] * 8)])
        try:
            if what == "claim":
                self.lease = claim(self.sessions, self.job_id) or self.lease
            elif what == "reap":
                if (
                    read(self.sessions, self.project, self.job_id).state == "running"
                    and self.choose.random() < 0.3
                ):
                    expire(self.sessions, self.job_id)
                write(self.sessions, leases.reap, 3)
            elif what == "work":
                what = self.work()
            else:
                write(self.sessions, what, self.project, self.job_id)
        except (StateConflict, Fenced):
            pass
        return what

    def work(self):
        number = self.choose.choice([self.done, max(0, self.done - 1)])  # the next, or the last again
        operation, arguments = self.choose.choice(
            [
                (leases.renew, (60.0,)),
                (leases.save_start, (values(0), {"initial": FOUND}, {"device": "cpu"})),
                (leases.save_trial, (Trial(self.choose.choice([0, 1]), {}, 0.5),)),
                (leases.save_iteration, (record(number, best=0, best_loss=1.0),)),
                (leases.save_iteration, (record(number, best=0, best_loss=1.0),)),
                (leases.give_back, ()),
                (leases.fail, ("diverged", "it did", {})),
                (leases.cancelled, ()),
            ]
        )
        if operation is leases.save_iteration and number > 3:
            return "nothing"
        write(self.sessions, operation, self.lease, *arguments) if self.lease else None
        if operation is leases.save_iteration:
            self.done = max(self.done, number + 1)
        return operation

    def seen(self):
        with self.sessions() as session:
            job = jobs.get(session, self.project, self.job_id)
            return JobRead.read(job, webhooks.of(session, job.id)).model_dump(), etags.of(job)


@pytest.mark.parametrize(
    "seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 60))]
)
def test_the_version_changes_whenever_what_shows_does(sessions, project, seed):
    walk = Walk(sessions, project, seed)
    shown, etag = walk.seen()
    changes = 0
    for _ in range(60):
        what = walk.step()
        shown_now, etag_now = walk.seen()
        if shown_now != shown:
            assert etag_now != etag, what
            changes += 1
        shown, etag = shown_now, etag_now
    assert changes > 1


def test_a_change_without_an_event_would_be_missed(sessions, project):
    """The negative control: the walk tells a silent change."""
    walk = Walk(sessions, project, 0)
    shown, etag = walk.seen()
    with sessions.begin() as session:
        session.get(Job, walk.job_id).attempt = 7
    shown_now, etag_now = walk.seen()
    assert shown_now != shown
    assert etag_now == etag


def test_a_write_that_came_twice_shows_as_once(sessions, project):
    walk = Walk(sessions, project, 0)
    walk.lease = claim(sessions, walk.job_id)
    for operation, argument in ((leases.save_iteration, record(0)), (leases.save_trial, Trial(0, {}, 1.0))):
        write(sessions, operation, walk.lease, argument)
        once = walk.seen()
        write(sessions, operation, walk.lease, argument)
        assert walk.seen() == once
