"""Commands that change what becomes of jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any

import typer

from retrograd.cli.app import AsJson, Folder, Jobs, connect, find_jobs
from retrograd.cli.console import confirmed, out, print_json
from retrograd.cli.failures import Failure
from retrograd.client import ApiError

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def pause(jobs: Jobs, as_json: AsJson = False, folder: Folder = None) -> None:
    """Put jobs by. `retrograd resume` has them go on after their last meta-iteration."""
    with connect(folder) as client:
        _each(client.pause, find_jobs(client, jobs), "will be paused", as_json=as_json)


def resume(jobs: Jobs, as_json: AsJson = False, folder: Folder = None) -> None:
    """Have paused jobs go on."""
    with connect(folder) as client:
        _each(client.resume, find_jobs(client, jobs), as_json=as_json)


def retry(jobs: Jobs, as_json: AsJson = False, folder: Folder = None) -> None:
    """Queue jobs again that failed or were cancelled. They go on after their last meta-iteration."""
    with connect(folder) as client:
        _each(client.retry, find_jobs(client, jobs), as_json=as_json)


def cancel(jobs: Jobs, yes: Yes = False, as_json: AsJson = False, folder: Folder = None) -> None:
    """End jobs. What they have learned so far stays."""
    with connect(folder) as client:
        ids = find_jobs(client, jobs)
        if len(ids) > 1:
            confirmed(f"Cancel {len(ids)} jobs?", yes=yes)
        _each(client.cancel, ids, "will be cancelled", as_json=as_json)


def delete(jobs: Jobs, yes: Yes = False, as_json: AsJson = False, folder: Folder = None) -> None:
    """Remove ended jobs and all that they have learned."""
    with connect(folder) as client:
        ids = find_jobs(client, jobs)
        what = f"job {ids[0]}" if len(ids) == 1 else f"{len(ids)} jobs"
        confirmed(f"Delete {what} and all that was learned?", yes=yes)

        def remove(job_id: str) -> dict[str, Any]:
            client.delete(job_id)
            return {"id": job_id, "state": "deleted"}

        _each(remove, ids, as_json=as_json)


def _each(
    change: Callable[[str], dict[str, Any]], ids: Sequence[str], of_running: str = "", *, as_json: bool
) -> None:
    """Change one after the other. A job that refuses does not hinder those after it, and decides the exit status.

    Args:
        change: takes an id; answers with the job.
        ids: of jobs.
        of_running: what is said of a job that goes on until its worker hears of the change.
        as_json: print the jobs as one list.
    """
    changed, refused = [], []
    for job_id in ids:
        try:
            job = change(job_id)
        except ApiError as error:
            failure = Failure.of(error)
            named = f"{job_id[:8]}: {failure.message}" if len(ids) > 1 else failure.message
            replace(failure, message=named).tell(as_json=as_json)
            refused.append(failure)
            continue
        changed.append(job)
        if not as_json:
            said = of_running if of_running and job["state"] == "running" else f"is {job['state']}"
            out.print(f"{job_id} {said}", soft_wrap=True)
    if as_json:
        print_json(changed)
    if refused:
        raise typer.Exit(refused[0].status)
