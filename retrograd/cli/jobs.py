"""Commands that submit, follow and end jobs."""

from __future__ import annotations

import contextlib
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from retrograd.cli.app import AsJson, Folder, Job, connect, find_job
from retrograd.cli.console import complain, err, interruptible, out, print_json, print_rows
from retrograd.cli.overrides import override
from retrograd.cli.progress import follow
from retrograd.cli.render import (
    event_line,
    failure,
    job_details,
    jobs_table,
    kinds_table,
    outcome,
    plan_details,
    presets_table,
)
from retrograd.client import Client


class State(StrEnum):
    """Of a job."""

    queued = "queued"
    running = "running"
    paused = "paused"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


def submit(
    spec: Annotated[
        str | None, typer.Argument(metavar="[SPEC.json]", help="A job as JSON; - reads it here.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Name of a preset, instead of a file.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("-s", "--set", metavar="PATH=VALUE", help="Change a field, as meta.num_iterations=100."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Queue nothing; show what the job would take.")
    ] = False,
    as_json: AsJson = False,
    folder: Folder = None,
) -> None:
    """Queue a job."""
    if (spec is None) == (preset is None):
        raise typer.BadParameter("give either a file with a job or --preset NAME; `retrograd presets` lists them")
    if dry_run and watch:
        raise typer.BadParameter("--dry-run queues no job that --watch could follow; give one of the two")
    with connect(folder) as client:
        if dry_run:
            plan = client.plan(_asked_for(client, spec, preset, settings))
            print_json(plan) if as_json else out.print(*plan_details(plan), sep="\n", soft_wrap=True)
            return
        if preset is not None and not settings:
            job = client.create_from_preset(preset)
        else:
            job = client.create_job(_asked_for(client, spec, preset, settings))
        if watch:
            job = _follow(client, str(job["id"]))
        if as_json:
            print_json(job)
        elif watch:
            _print_outcome(job)
        else:
            out.print(
                f"{job['id']} {job['state']}; `retrograd watch {str(job['id'])[:8]}` follows it", soft_wrap=True
            )
        _exit_with(job)


def ls(
    state: Annotated[State | None, typer.Option(help="Only jobs of this state.")] = None,
    search: Annotated[str | None, typer.Option(help="Only jobs whose name holds this.")] = None,
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many jobs at most.")] = 20,
    folder: Folder = None,
) -> None:
    """List the newest jobs."""
    with connect(folder) as client:
        found = client.jobs(limit, state=state, search=search)
    none = "No jobs yet; `retrograd submit --preset digits-schedules` makes one."
    if state is not None or search is not None:
        none = "No job is like that."
    print_rows(found, jobs_table, none=none, as_json=as_json)


def show(job: Job = "latest", as_json: AsJson = False, folder: Folder = None) -> None:
    """Show all about a job."""
    with connect(folder) as client:
        document = client.job(find_job(client, job))
    if as_json:
        print_json(document)
    else:
        out.print(job_details(document))


def status(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="One job; all of them without.")] = None,
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many jobs at most.")] = 20,
    folder: Folder = None,
) -> None:
    """Show the newest jobs, or one of them: `ls` and `show` in one."""
    if job is None:
        ls(None, None, as_json, limit, folder)
    else:
        show(job, as_json, folder)


def logs(
    job: Job = "latest",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    as_json: AsJson = False,
    folder: Folder = None,
) -> None:
    """Show what happened to a job, in order."""
    with connect(folder) as client:
        job_id = find_job(client, job)
        events = client.events(job_id) if follow else client.past_events(job_id)
        with contextlib.suppress(KeyboardInterrupt), interruptible():
            for event in events:
                out.print(json.dumps(event) if as_json else event_line(event), markup=not as_json, soft_wrap=True)


def watch(job: Job = "latest", folder: Folder = None) -> None:
    """Follow a job to its end. Ctrl-C stops following; the job goes on."""
    with connect(folder) as client:
        ended = _follow(client, find_job(client, job))
        _print_outcome(ended)
        _exit_with(ended)


def cancel(job: Job, folder: Folder = None) -> None:
    """End a job. What it has learned so far stays."""
    with connect(folder) as client:
        job_id = find_job(client, job)
        state = client.cancel(job_id)["state"]
    out.print(f"{job_id} {'will be cancelled' if state == 'running' else f'is {state}'}")


def pause(job: Job, folder: Folder = None) -> None:
    """Put a job by. `retrograd resume` has it go on after its last meta-iteration."""
    with connect(folder) as client:
        job_id = find_job(client, job)
        state = client.pause(job_id)["state"]
    out.print(f"{job_id} {'will be paused' if state == 'running' else f'is {state}'}")


def resume(job: Job, folder: Folder = None) -> None:
    """Have a paused job go on."""
    with connect(folder) as client:
        job_id = find_job(client, job)
        state = client.resume(job_id)["state"]
    out.print(f"{job_id} is {state}")


def retry(job: Job, folder: Folder = None) -> None:
    """Queue a job again that failed or was cancelled. It goes on after its last meta-iteration."""
    with connect(folder) as client:
        job_id = find_job(client, job)
        state = client.retry(job_id)["state"]
    out.print(f"{job_id} is {state}")


def presets(as_json: AsJson = False, folder: Folder = None) -> None:
    """List jobs that are ready to be submitted."""
    with connect(folder) as client:
        known = [client.preset(name) for name in client.presets()]
    if as_json:
        print_json(known)
    else:
        out.print(presets_table(known))


def kinds(as_json: AsJson = False, folder: Folder = None) -> None:
    """List what jobs may be about: the service's own kinds of problems, and those of installed packages."""
    with connect(folder) as client:
        known = client.problem_kinds()
    if as_json:
        print_json(known)
    else:
        out.print(kinds_table(known))


def _asked_for(client: Client, spec: str | None, preset: str | None, settings: list[str] | None) -> dict[str, Any]:
    document = client.preset(preset) if preset else _read(str(spec))
    return override(document, settings or [])


def _read(spec: str) -> dict[str, Any]:
    try:
        document = json.loads(sys.stdin.read() if spec == "-" else Path(spec).read_text())
    except ValueError as error:
        raise typer.BadParameter(f"{spec} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise typer.BadParameter(f"{spec} does not hold a JSON object; `retrograd presets --json` shows some")
    return document


def _follow(client: Client, job_id: str) -> dict[str, Any]:
    try:
        with interruptible():
            return follow(client, job_id)
    except KeyboardInterrupt:
        err.print(
            f"Stopped watching; the job goes on. `retrograd watch {job_id[:8]}` follows it again, "
            f"`retrograd cancel {job_id[:8]}` ends it.",
            soft_wrap=True,
        )
        raise typer.Exit(130) from None


def _print_outcome(job: dict[str, Any]) -> None:
    out.print(*outcome(job), sep="\n", soft_wrap=True)
    if job["state"] == "succeeded":
        out.print(f"`retrograd download {job['id'][:8]}` saves what it learned.", soft_wrap=True)


def _exit_with(job: dict[str, Any]) -> None:
    if job["state"] in ("failed", "cancelled"):
        complain(failure(job))
        raise typer.Exit(1)
