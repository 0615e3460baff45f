"""`retrograd up` and `retrograd demo`: the whole service on this machine."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from core.errors import CoreError
from retrograd.cli.app import AsJson, Folder
from retrograd.cli.console import err, interruptible, out, print_json, print_json_line
from retrograd.cli.exits import Exit
from retrograd.cli.failures import JobEnded
from retrograd.cli.overrides import Setting
from retrograd.cli.progress import follow
from retrograd.cli.render import duration, outcome
from retrograd.cli.specs import of_preset, with_settings
from retrograd.client import Client, Job, ServerUnreachable
from retrograd.home import Home
from retrograd.local.stack import DEFAULT_PORT, Stack

DEMO_PRESET = "digits-schedules"


class ProcessesLeft(CoreError):  # noqa: N818 - named for what happened
    """A stack that has not ended wholly."""

    code = "processes_left"


Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of data sets, one sub-folder each.  [default: RETROGRAD_DATA]"),
]


def up(
    folder: Folder = None,
    port: Annotated[int, typer.Option(help="Port of the API on 127.0.0.1; 0 takes a free one.")] = DEFAULT_PORT,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Run the service on this machine until Ctrl-C. With --json: a line once it is ready."""
    home = Home(folder)
    with interruptible():
        try:
            with _running(home, port, data) as stack:
                print_json_line(_whereabouts(stack)) if as_json else _announce(stack)
                stack.check(None)
        except KeyboardInterrupt:
            if not as_json:
                err.print(f"Stopped. Jobs and results are kept in {home.path}.", soft_wrap=True)


def demo(
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Where the learned values are saved; a file that is there is replaced."
        ),
    ] = Path("retrograd-demo.json"),
    settings: Annotated[
        list[str] | None, typer.Option("-s", "--set", metavar="PATH=VALUE", help="Change the job first.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """See it work: learn 1608 hyperparameters on this machine, then stop."""
    began = time.monotonic()
    changes = [Setting.read(text) for text in settings or []]
    output.parent.mkdir(parents=True, exist_ok=True)  # now: not after all the work
    with interruptible(), tempfile.TemporaryDirectory(prefix="retrograd-") as folder:
        try:
            with _running(Home(folder), 0, None) as stack, Client(stack.url, stack.api_key) as client:
                processes = stack.processes()
                job = _learn(stack, client, changes, output)
        except KeyboardInterrupt:
            err.print("Stopped; nothing is kept.")
            raise typer.Exit(Exit.INTERRUPTED) from None
    if not as_json:
        out.print(*outcome(job), f"Saved to {output}", sep="\n", soft_wrap=True)
    left = [process for process in processes if process.is_running()]
    if left:
        raise ProcessesLeft(f"processes are left: {', '.join(str(process.pid) for process in left)}")
    seconds = time.monotonic() - began
    if as_json:
        print_json({"job": job.document, "output": str(output), "seconds": round(seconds, 1)})
    else:
        out.print(f"Done in {duration(seconds)}; everything is stopped, no process is left.")


def _learn(stack: Stack, client: Client, changes: list[Setting], output: Path) -> Job:
    spec = with_settings(of_preset(DEMO_PRESET, client.presets.get(DEMO_PRESET)), changes)
    try:
        job = spec.accepted(client.jobs.create)
        follow(job, stack.check)
        if job.state != "succeeded":
            raise JobEnded(job)
        job.download(output)
    except ServerUnreachable:
        stack.check(1)  # says which component ended, and why
        raise
    return job


@contextlib.contextmanager
def _running(home: Home, port: int, data: Path | None) -> Iterator[Stack]:
    """A stack whose start and stop are shown while they last."""
    with err.status("Starting …") as status:
        stack = Stack(home, port, data, lambda component: status.update(f"Starting {component} …"))
        stack.start()
    try:
        yield stack
    finally:
        with err.status("Stopping …"):
            stack.stop()


def _whereabouts(stack: Stack) -> dict[str, str]:
    folder = stack.home.path.absolute()
    return {
        "url": stack.url,
        "dashboard": f"{stack.url}/",
        "documentation": f"{stack.url}/docs",
        "api_key_file": str(folder / "api-key"),
        "logs": str(folder / "logs"),
    }


def _announce(stack: Stack) -> None:
    folder = stack.home.path
    out.print(Text("Retrograd is ready", "bold"), f"at {stack.url}", soft_wrap=True)
    for name, value in (
        ("Dashboard", f"{stack.url}/"),
        ("API documentation", f"{stack.url}/docs"),
        ("API key", folder / "api-key"),
        ("Logs", folder / "logs"),
    ):
        out.print(f"  {name:<18}{value}", soft_wrap=True)
    out.print("Submit a job from another terminal, in this folder:", soft_wrap=True)
    out.print(f"  retrograd submit --preset {DEMO_PRESET} --watch", soft_wrap=True)
    out.print("Ctrl-C stops everything; jobs and results are kept.", soft_wrap=True)
