"""`retrograd up` and `retrograd demo`: the whole service on this machine."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from retrograd.cli.app import Folder
from retrograd.cli.console import complain, err, interruptible, out
from retrograd.cli.overrides import override
from retrograd.cli.progress import follow
from retrograd.cli.render import duration, failure, outcome
from retrograd.client import Client, ServerUnreachable
from retrograd.home import Home
from retrograd.local.stack import DEFAULT_PORT, Stack

DEMO_PRESET = "digits-schedules"

Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of data sets, one sub-folder each.  [default: RETROGRAD_DATA]"),
]


def up(
    folder: Folder = None,
    port: Annotated[int, typer.Option(help="Port of the API on 127.0.0.1; 0 takes a free one.")] = DEFAULT_PORT,
    data: Data = None,
) -> None:
    """Run the service on this machine until Ctrl-C."""
    home = Home(folder)
    with interruptible():
        try:
            with _running(home, port, data) as stack:
                _announce(stack)
                stack.check(None)
        except KeyboardInterrupt:
            err.print(f"Stopped. Jobs and results are kept in {home.path}.", soft_wrap=True)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the learned values are saved.")] = Path(
        "retrograd-demo.json"
    ),
    settings: Annotated[
        list[str] | None, typer.Option("-s", "--set", metavar="PATH=VALUE", help="Change the job first.")
    ] = None,
) -> None:
    """See it work: learn 1608 hyperparameters on this machine, then stop."""
    began = time.monotonic()
    output.parent.mkdir(parents=True, exist_ok=True)  # now: not after all the work
    with interruptible(), tempfile.TemporaryDirectory(prefix="retrograd-") as folder:
        try:
            with _running(Home(folder), 0, None) as stack, Client(stack.url, stack.api_key) as client:
                processes = stack.processes()
                job = _learn(stack, client, settings or [], output)
        except KeyboardInterrupt:
            err.print("Stopped; nothing is kept.")
            raise typer.Exit(130) from None
    out.print(*outcome(job), f"Saved to {output}", sep="\n", soft_wrap=True)
    left = [process for process in processes if process.is_running()]
    if left:
        complain(f"processes are left: {', '.join(str(process.pid) for process in left)}")
        raise typer.Exit(1)
    out.print(f"Done in {duration(time.monotonic() - began)}; everything is stopped, no process is left.")


def _learn(stack: Stack, client: Client, settings: list[str], output: Path) -> dict[str, Any]:
    spec = override(client.preset(DEMO_PRESET), settings)
    try:
        job_id = str(client.create_job(spec)["id"])
        job = follow(client, job_id, stack.check)
        if job["state"] != "succeeded":
            complain(failure(job))
            raise typer.Exit(1)
        client.download(job_id, output)
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


def _announce(stack: Stack) -> None:
    folder = stack.home.path
    out.print(f"[bold]Retrograd is ready[/] at {stack.url}", soft_wrap=True)
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
