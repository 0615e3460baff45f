"""`retrograd download`, `curves`, `figures`, `export-schedule`: what a job has learned, as files."""

from __future__ import annotations

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from retrograd.cli.app import AsJson, Folder, JobName, connect, find_job
from retrograd.cli.console import out, print_json
from retrograd.client.files import format_of, stays, whole
from retrograd.client.printable import one_line
from retrograd.exports import Framework

Iteration = Annotated[str, typer.Option(help="best, last, or a number of meta-iterations.")]

_TABLES = ("csv", "parquet", "json")
_KINDS = ".csv, .parquet or .json"
_STDOUT = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


class Format(StrEnum):
    """Of a download."""

    json = "json"  # the whole document, with units, losses and certificate
    npz = "npz"  # the arrays alone


def download(
    job: JobName = "latest",
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="File, FOLDER/ for it, or - for standard output.  [default: JOB.json]",
        ),
    ] = None,
    iteration: Iteration = "best",
    format: Annotated[
        Format | None,
        typer.Option(help="json for the document, npz for arrays.  [default: as the file's name ends]"),
    ] = None,
    as_json: AsJson = False,
    folder: Folder = None,
) -> None:
    """Save the hyperparameters that a job has learned. A file that is there is replaced."""
    _check_iteration(iteration)
    _check_output(output, as_json=as_json)
    try:
        form = format_of(output or "", format, tuple(Format))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--format") from None
    with connect(folder) as client:
        found = find_job(client, job)
        path = found.download(_file(output, f"{found.id}.{form}"), iteration, form)
    _saved(path, as_json=as_json)


def curves(
    job: JobName = "latest",
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help=f"File: {_KINDS}; FOLDER/ for it, or - for standard output.  [default: JOB-curves.csv]",
        ),
    ] = None,
    as_json: AsJson = False,
    folder: Folder = None,
) -> None:
    """Save a table of a job's meta-iterations: losses, norms, seconds, certificates and diagnostics.

    A file that is there is replaced.
    """
    _check_output(output, as_json=as_json)
    with connect(folder) as client:
        found = find_job(client, job)
        path = _file(output, f"{found.id[:8]}-curves.csv")
        if path.suffix.removeprefix(".").lower() not in _TABLES and not stays(path):
            raise typer.BadParameter(f"{path.name} is no {_KINDS}", param_hint="--output")
        found.download_curves(path)
    _saved(path, as_json=as_json)


def export_schedule(
    job: JobName = "latest",
    framework: Annotated[Framework, typer.Option("--as", help="optax or pytorch.")] = Framework.optax,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder.  [default: learned_JOB]")] = None,
    iteration: Iteration = "best",
    as_json: AsJson = False,
    folder: Folder = None,
) -> None:
    """Write what a job has learned as a module to train with elsewhere. Files of its names are replaced."""
    from retrograd.exports import schedule  # loads NumPy

    _check_iteration(iteration)
    with connect(folder) as client, tempfile.TemporaryDirectory() as kept:
        found = find_job(client, job).refresh()
        arrays = found.download(Path(kept) / "learned.npz", iteration, "npz")
        module, data = schedule.export(found, arrays, framework, output or Path(f"learned_{found.id[:8]}"))
    if as_json:
        print_json({"module": str(module), "data": str(data)})
    else:
        out.print(f"Saved {module} and {data}", f"`python {module}` says what is in it.", sep="\n", soft_wrap=True)


class Picture(StrEnum):
    """Of a figure."""

    png = "png"
    svg = "svg"


def figures(
    job: JobName = "latest",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder.  [default: .]")] = None,
    format: Annotated[Picture, typer.Option(help="png or svg.")] = Picture.png,
    as_json: AsJson = False,
    folder: Folder = None,
) -> None:
    """Save all figures of a job's results. Files of their names are replaced."""
    target, saved = output or Path(), []
    with connect(folder) as client:
        found = find_job(client, job)
        for figure in found.figures():
            target.mkdir(parents=True, exist_ok=True)
            path = target / f"{found.id[:8]}-{figure['name']}.{format}"
            with whole(path) as file:
                file.write(found.figure(figure["name"], format))
            saved.append({"name": figure["name"], "title": figure["title"], "path": str(path)})
            if not as_json:
                out.print(f"Saved {path}: {one_line(figure['title'])}", soft_wrap=True)
    if as_json:
        print_json(saved)
    elif not saved:
        out.print("There is nothing to draw of this job yet.")


def _saved(path: Path, *, as_json: bool) -> None:
    """Say what was saved; of what was written to a device or a pipe, only to programs: a terminal may be it."""
    if as_json:
        print_json({"path": str(path), "bytes": None if stays(path) else path.stat().st_size})
    elif not stays(path):
        out.print(f"Saved {path} ({path.stat().st_size:,} bytes)", soft_wrap=True)


def _file(output: str | None, name: str) -> Path:
    """The file that is meant by `output`: itself, or one of this name in a folder, which a slash at the end makes."""
    if output == "-":
        return Path(_STDOUT[0])
    target = Path(output or name)
    if output is not None and output.endswith("/"):
        target.mkdir(parents=True, exist_ok=True)
    return target / name if output is not None and target.is_dir() else target


def _check_output(output: str | None, *, as_json: bool) -> None:
    if as_json and output in ("-", *_STDOUT):
        raise typer.BadParameter(
            "with --json, standard output says what was saved; give a file", param_hint="--output"
        )


def _check_iteration(iteration: str) -> None:
    if iteration not in ("best", "last") and not iteration.isdigit():
        raise typer.BadParameter(f"{iteration!r} is neither best, last, nor a number", param_hint="--iteration")
