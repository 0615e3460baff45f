"""Projects, what they may have, and what they have."""

import random
from collections import Counter

from sqlalchemy import func, select, text

from core.config import Settings
from core.shapes import groups_for
from core.spec import JobSpec
from core.store import jobs, leases, outbox, quotas
from core.store.models import Job, State, Tally
from tests.builders import SMALL

GENEROUS = Settings().quotas
SPEC = JobSpec.model_validate(SMALL)


def limited(**limits):
    return GENEROUS.model_copy(update=limits)


def post(sessions, project, limits, *, queue="cpu", max_snapshot_bytes=1 << 20):
    with sessions.begin() as session:
        return jobs.create(
            session,
            project,
            SPEC,
            preset=None,
            queue=queue,
            groups=groups_for(SPEC),
            max_snapshot_bytes=max_snapshot_bytes,
            limits=limits,
        ).id


def do(sessions, operation, *arguments, **options):
    with sessions.begin() as session:
        return operation(session, *arguments, **options)


def take(sessions, job_id, limits):
    return do(sessions, leases.claim, job_id, 60.0, limits)


def state_of(sessions, job_id):
    with sessions.begin() as session:
        return session.execute(select(Job.state, Job.held).where(Job.id == job_id)).one()


def tallies(sessions):
    with sessions.begin() as session:
        projects = session.scalars(select(Tally.project_id).distinct()).all()
        return {project: tuple(quotas.used(session, project))[:3] for project in projects}


def counted(sessions, projects):
    """The oracle: what the tallies should be."""
    found = {}
    with sessions.begin() as session:
        for project in projects:
            states = Counter(session.scalars(select(Job.state).where(Job.project_id == project)))
            size = session.scalar(select(func.sum(Job.stored_bytes)).where(Job.project_id == project)) or 0
            for table in ("datasets", "programs"):
                query = f"SELECT sum(size) FROM {table} JOIN blobs USING (sha256) WHERE project_id = :project"
                size += session.execute(text(query), {"project": project}).scalar() or 0
            found[project] = (states[State.QUEUED], states[State.RUNNING], size)
    return found


def messages(sessions):
    """Takes what is to be published, as a broker would."""
    with sessions.begin() as session:
        sent = []
        outbox.publish(session, lambda job_id, queue: sent.append(job_id))
        return sent


def upload(sessions, project, size, table="datasets"):
    def insert(session):
        digest = f"{random.getrandbits(256):064x}"
        session.execute(text("INSERT INTO blobs (sha256, size) VALUES (:d, :s)"), {"d": digest, "s": size})
        session.execute(
            text(f"INSERT INTO {table} (id, project_id, name, sha256, summary) VALUES (:i, :p, '', :d, '{{}}')"),
            {"i": f"ds_{digest[:24]}", "p": project, "d": digest},
        )
        return f"ds_{digest[:24]}"

    return do(sessions, insert)
