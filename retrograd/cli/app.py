"""The Typer application that the commands join."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from retrograd.cli.completion import job_ids
from retrograd.cli.exits import EPILOG
from retrograd.cli.failures import NotFound
from retrograd.client import Client
from retrograd.home import Home

_SEARCHED = 100  # jobs among which an abbreviated id is looked for
_FULL = 36  # characters of an id

app = typer.Typer(
    name="retrograd",
    help="Learn hyperparameters by exact gradient descent through whole training runs.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Folder = Annotated[
    Path | None,
    typer.Option("--folder", help="Folder of the embedded stack.  [default: RETROGRAD_HOME, else .retrograd]"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
_ABBREVIATED = "its first characters, or `latest`."
Job = Annotated[str, typer.Argument(metavar="JOB", help=f"Id of a job, {_ABBREVIATED}", autocompletion=job_ids)]
Jobs = Annotated[
    list[str], typer.Argument(metavar="JOB...", help=f"Ids of jobs, {_ABBREVIATED}", autocompletion=job_ids)
]


def _version(wanted: bool) -> None:
    if wanted:
        from retrograd import __version__

        typer.echo(f"retrograd {__version__}")
        raise typer.Exit


@app.callback(epilog=EPILOG)
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
    return find_jobs(client, [job])[0]


def find_jobs(client: Client, jobs: Sequence[str]) -> list[str]:
    """The full ids that `jobs` abbreviate, each once, in the same order."""
    known = [str(each["id"]) for each in client.jobs(_SEARCHED)] if any(len(job) < _FULL for job in jobs) else []
    return list(dict.fromkeys(_found(job, known) for job in jobs))


def _found(job: str, known: list[str]) -> str:
    if len(job) >= _FULL:
        return job
    if not known:
        raise NotFound("there is no job yet; `retrograd submit --preset digits-schedules` makes one")
    matches = known[:1] if job == "latest" else [each for each in known if job and each.startswith(job)]
    if len(matches) == 1:
        return matches[0]
    what = f"{len(matches)} jobs start" if matches else f"none of the newest {_SEARCHED} jobs starts"
    raise NotFound(f"{what} with {job!r}; `retrograd ls` lists them")
