"""Commands that submit, list and follow jobs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from difflib import get_close_matches
from enum import StrEnum
from itertools import islice
from typing import Annotated

import typer

from retrograd.cli.app import AsJson, Folder, JobName, connect, find_job
from retrograd.cli.completion import fields, preset_names
from retrograd.cli.console import err, interruptible, out, print_json, print_json_line, print_rows
from retrograd.cli.exits import Exit
from retrograd.cli.failures import JobEnded, NotFound
from retrograd.cli.overrides import Setting
from retrograd.cli.progress import follow
from retrograd.cli.render import (
    event_line,
    job_details,
    jobs_table,
    kinds_table,
    outcome,
    plan_details,
    presets_table,
)
from retrograd.cli.specs import of_file, of_preset, with_settings
from retrograd.client import ApiError, Job
from retrograd.client.printable import one_line

_PAGE = 100  # jobs that one request can bring


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
    preset: Annotated[
        str | None,
        typer.Option(help="Name of a preset, instead of a file.", autocompletion=preset_names),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "-s",
            "--set",
            metavar="PATH=VALUE",
            help="Change a field, as meta.num_iterations=100.",
            autocompletion=fields,
        ),
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
    written = None if spec is None else of_file(spec)  # before a server is looked for
    settings = [Setting.read(text) for text in changes or []]
    with connect(folder) as client:
        if written is None and not settings and not dry_run:
            with _known(str(preset)):  # as it stands: for that a key need not be one that may read
                job = client.jobs.create(preset=preset)
        else:
            if written is None:
                with _known(str(preset)):
                    written = of_preset(str(preset), client.presets.get(str(preset)))
            asked = with_settings(written, settings)
            if dry_run:
                plan = asked.accepted(client.jobs.plan)
                print_json(plan) if as_json else out.print(*plan_details(plan), sep="\n", soft_wrap=True)
                return
            job = asked.accepted(client.jobs.create)
        if watch:
            _follow(job, as_json=as_json)
        if as_json:
            print_json(job.document)
        elif watch:
            _print_outcome(job)
        else:
            out.print(f"{job.id} {one_line(job.state)}; `retrograd watch {job.id[:8]}` follows it", soft_wrap=True)
    if watch:
        _exit_with(job)


def ls(
    state: Annotated[State | None, typer.Option(help="Only jobs of this state.")] = None,
    search: Annotated[str | None, typer.Option(help="Only jobs whose name holds this.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All there are, however many.")] = False,
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(min=1, help="How many jobs at most.")] = 20,
    folder: Folder = None,
) -> None:
    """List the newest jobs."""
    with connect(folder) as client:
        if limit <= _PAGE and not all_:
            jobs: list[Job] = client.jobs.list(limit, state=state, search=search)
        else:
            jobs = list(islice(client.jobs.all(state=state, search=search), None if all_ else limit))
    none = "No jobs yet; `retrograd submit --preset digits-schedules` makes one."
    if state is not None or search is not None:
        none = "No job is like that."
    print_rows([job.document for job in jobs], jobs_table, none=none, as_json=as_json)


def show(job: JobName = "latest", as_json: AsJson = False, folder: Folder = None) -> None:
    """Show all about a job."""
    with connect(folder) as client:
        found = find_job(client, job).refresh()
    if as_json:
        print_json(found.document)
    else:
        out.print(job_details(found))


def status(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="One job; all of them without.")] = None,
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many jobs at most.")] = 20,
    folder: Folder = None,
) -> None:
    """Show the newest jobs, or one of them: `ls` and `show` in one."""
    if job is None:
        ls(as_json=as_json, limit=limit, folder=folder)
    else:
        show(job, as_json, folder)


def logs(
    job: JobName = "latest",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    as_json: AsJson = False,
    folder: Folder = None,
) -> None:
    """Show what happened to a job, in order."""
    with connect(folder) as client:
        found = find_job(client, job)
        events = found.events() if follow else found.past_events()
        with _left_alone(found, silent=True):
            for event in events:
                print_json_line(event) if as_json else out.print(event_line(event), soft_wrap=True)


def watch(job: JobName = "latest", as_json: AsJson = False, folder: Folder = None) -> None:
    """Follow a job to its end. Ctrl-C stops following; the job goes on.

    With --json: everything that happens to it, a line each, and the job as the last line.
    """
    with connect(folder) as client:
        found = find_job(client, job)
        if as_json:
            with _left_alone(found, silent=True):
                for event in found.events():
                    print_json_line(event)
                print_json_line(found.refresh().document)
        else:
            _follow(found)
            _print_outcome(found)
    _exit_with(found)


def presets(as_json: AsJson = False, folder: Folder = None) -> None:
    """List jobs that are ready to be submitted."""
    with connect(folder) as client:
        known = [client.presets.get(name) for name in client.presets.names()]
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


@contextlib.contextmanager
def _known(preset: str) -> Iterator[None]:
    """Of a preset that the server does not know, the name that may be meant is told."""
    try:
        yield
    except ApiError as error:
        if error.code not in ("unknown_preset", "invalid_parameter"):
            raise
        near = get_close_matches(preset, preset_names(), n=1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise NotFound(f"no preset {preset!r}; {meant}`retrograd presets` lists them") from error


def _follow(job: Job, *, as_json: bool = False) -> None:
    with _left_alone(job, silent=as_json):
        if as_json and not err.is_terminal:
            job.wait(progress=False)  # who reads JSON here has no use for progress
        else:
            follow(job)


@contextlib.contextmanager
def _left_alone(job: Job, *, silent: bool) -> Iterator[None]:
    """Ctrl-C ends the watching and not the job."""
    try:
        with interruptible():
            yield
    except KeyboardInterrupt:
        if not silent:
            err.print(
                f"Stopped watching; the job goes on. `retrograd watch {job.id[:8]}` follows it again, "
                f"`retrograd cancel {job.id[:8]}` ends it.",
                soft_wrap=True,
            )
        raise typer.Exit(Exit.INTERRUPTED) from None


def _print_outcome(job: Job) -> None:
    if job.state == "succeeded":
        out.print(*outcome(job), sep="\n", soft_wrap=True)
        out.print(f"`retrograd download {job.id[:8]}` saves what it learned.", soft_wrap=True)


def _exit_with(job: Job) -> None:
    if job.ended and job.state != "succeeded":
        raise JobEnded(job)
