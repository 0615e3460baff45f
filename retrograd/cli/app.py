"""The Typer application that the commands join."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retrograd.client import Client
from retrograd.home import Home

app = typer.Typer(
    name="retrograd",
    help="Learn hyperparameters by exact gradient descent through whole training runs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Folder = Annotated[
    Path | None,
    typer.Option("--folder", help="Folder of the embedded stack.  [default: RETROGRAD_HOME, else .retrograd]"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Job = Annotated[str, typer.Argument(metavar="JOB", help="Id of a job, its first characters, or `latest`.")]


def _version(wanted: bool) -> None:
    if wanted:
        from retrograd import __version__

        typer.echo(f"retrograd {__version__}")
        raise typer.Exit


@app.callback()
def retrograd(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Learn hyperparameters by exact gradient descent through whole training runs."""


def connect(folder: Path | None = None) -> Client:
    """A client of the server that this folder or the environment names."""
    return Client(home=Home(folder))


def find_job(client: Client, job: str) -> str:
    """The full id that `job` abbreviates."""
    if len(job) == 36:
        return job
    known = [str(each["id"]) for each in client.jobs(limit=1 if job == "latest" else 100)]
    matches = known if job == "latest" else [each for each in known if each.startswith(job)]
    if len(matches) == 1:
        return matches[0]
    if not known:
        raise typer.BadParameter("there is no job yet; `retrograd submit --preset digits-schedules` makes one")
    what = f"{len(matches)} jobs start" if matches else "none of the newest 100 jobs starts"
    raise typer.BadParameter(f"{what} with {job!r}; `retrograd status` lists them")
