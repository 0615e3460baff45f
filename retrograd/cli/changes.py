"""Commands that change what becomes of jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import typer

from retrograd.cli.app import AsJson, Folder, JobNames, connect, find_jobs
from retrograd.cli.console import confirmed, out, print_json
from retrograd.cli.failures import Failure
from retrograd.client import ApiError, Job
from retrograd.client.printable import one_line

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def pause(jobs: JobNames, as_json: AsJson = False, folder: Folder = None) -> None:
    """Put jobs by. `retrograd resume` has them go on after their last meta-iteration."""
    with connect(folder) as client:
        _each(Job.pause, find_jobs(client, jobs), "will be paused", as_json=as_json)


def resume(jobs: JobNames, as_json: AsJson = False, folder: Folder = None) -> None:
    """Have paused jobs go on."""
    with connect(folder) as client:
        _each(Job.resume, find_jobs(client, jobs), as_json=as_json)


def retry(jobs: JobNames, as_json: AsJson = False, folder: Folder = None) -> None:
    """Queue jobs again that failed or were cancelled. They go on after their last meta-iteration."""
    with connect(folder) as client:
        _each(Job.retry, find_jobs(client, jobs), as_json=as_json)


def cancel(jobs: JobNames, yes: Yes = False, as_json: AsJson = False, folder: Folder = None) -> None:
    """End jobs. What they have learned so far stays."""
    with connect(folder) as client:
        found = find_jobs(client, jobs)
        if len(found) > 1:
            confirmed(f"Cancel {len(found)} jobs?", yes=yes)
        _each(Job.cancel, found, "will be cancelled", as_json=as_json)


def delete(jobs: JobNames, yes: Yes = False, as_json: AsJson = False, folder: Folder = None) -> None:
    """Remove ended jobs and all that they have learned."""
    with connect(folder) as client:
        found = find_jobs(client, jobs)
        what = f"job {found[0].id}" if len(found) == 1 else f"{len(found)} jobs"
        confirmed(f"Delete {what} and all that was learned?", yes=yes)
        _each(_deleted, found, as_json=as_json)


def _deleted(job: Job) -> Mapping[str, Any]:
    job.delete()
    return {"id": job.id, "state": "deleted"}


def _each(
    change: Callable[[Job], Mapping[str, Any]], jobs: Sequence[Job], of_running: str = "", *, as_json: bool
) -> None:
    """Change one after the other. A job that refuses does not hinder those after it, and decides the exit status.

    Args:
        change: answers with what has become of the job.
        jobs: to be changed.
        of_running: what is said of a job that goes on until its worker hears of the change.
        as_json: print the jobs as one list; of those that were changed, even where the last words are an error's.
    """
    changed, refused = [], []
    try:
        for job in jobs:
            try:
                now = change(job)
            except ApiError as error:
                failure = Failure.of(error)
                named = f"{job.id[:8]}: {failure.message}" if len(jobs) > 1 else failure.message
                replace(failure, message=named).tell(as_json=as_json)
                refused.append(failure)
                continue
            changed.append(dict(now))
            if not as_json:
                said = of_running if of_running and now["state"] == "running" else f"is {one_line(now['state'])}"
                out.print(f"{job.id} {said}", soft_wrap=True)
    finally:
        if as_json:
            print_json(changed)
    if refused:
        raise typer.Exit(refused[0].status)
