"""The Typer application that the commands join."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from retrograd.cli.completion import job_ids
from retrograd.cli.exits import EPILOG
from retrograd.cli.failures import NotFound
from retrograd.client import ApiError, Client, Job
from retrograd.client.call import is_id
from retrograd.home import Home

_SEARCHED = 100  # jobs among which an abbreviated id is looked for

app = typer.Typer(
    name="retrograd",
    help="Learn hyperparameters by exact gradient descent through whole training runs.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},  # of all commands: contexts inherit it
)

Folder = Annotated[
    Path | None,
    typer.Option("--folder", help="Folder of the embedded stack.  [default: RETROGRAD_HOME, else .retrograd]"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
_ABBREVIATED = "its first characters, or `latest`."
JobName = Annotated[
    str, typer.Argument(metavar="JOB", help=f"Id of a job, {_ABBREVIATED}", autocompletion=job_ids)
]
JobNames = Annotated[
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


def find_job(client: Client, name: str) -> Job:
    """The job that `name` abbreviates. What is seen of it may be only what lists have."""
    return find_jobs(client, [name])[0]


def find_jobs(client: Client, names: Sequence[str]) -> list[Job]:
    """The jobs that `names` abbreviate, each once, in the same order."""
    newest = client.jobs.list(_SEARCHED) if not all(map(is_id, names)) else []
    found = (client.jobs.get(name) if is_id(name) else _among(newest, name) for name in names)
    return list({job.id: job for job in found}.values())


@contextlib.contextmanager
def known(what: str, name: str, group: str) -> Iterator[None]:
    """What the server will not even take for an id of a data set or a program is none that there is."""
    try:
        yield
    except ApiError as error:
        if error.code not in ("invalid_parameter", "not_found"):  # by whether its path can hold such a name
            raise
        raise NotFound(f"there is no {what} {name!r}; `retrograd {group} list` shows those there are") from error


def _among(jobs: Sequence[Job], name: str) -> Job:
    if not jobs:
        raise NotFound("there is no job yet; `retrograd submit --preset digits-schedules` makes one")
    matches = jobs[:1] if name == "latest" else [job for job in jobs if name and job.id.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    what = f"{len(matches)} jobs start" if matches else f"none of the newest {_SEARCHED} jobs starts"
    raise NotFound(f"{what} with {name!r}; `retrograd ls` lists them")
