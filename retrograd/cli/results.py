"""`retrograd download` and `retrograd figures`: what a job has learned, as files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from retrograd.cli.app import Folder, Job, connect, find_job
from retrograd.cli.console import out


class Format(StrEnum):
    """Of a download."""

    json = "json"  # the whole document, with units, losses and certificate
    npz = "npz"  # the arrays alone


def download(
    job: Job = "latest",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File.  [default: JOB.json]")] = None,
    iteration: Annotated[str, typer.Option(help="best, last, or a number of meta-iterations.")] = "best",
    format: Annotated[Format, typer.Option(help="json for the document, npz for arrays.")] = Format.json,
    folder: Folder = None,
) -> None:
    """Save the hyperparameters that a job has learned."""
    if iteration not in ("best", "last") and not iteration.isdigit():
        raise typer.BadParameter(f"{iteration!r} is neither best, last, nor a number", param_hint="--iteration")
    with connect(folder) as client:
        job_id = find_job(client, job)
        path = client.download(job_id, output or Path(f"{job_id}.{format}"), iteration, format)
    out.print(f"Saved {path} ({path.stat().st_size:,} bytes)", soft_wrap=True)


class Picture(StrEnum):
    """Of a figure."""

    png = "png"
    svg = "svg"


def figures(
    job: Job = "latest",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder.  [default: .]")] = None,
    format: Annotated[Picture, typer.Option(help="png or svg.")] = Picture.png,
    folder: Folder = None,
) -> None:
    """Save all figures of a job's results."""
    target = output or Path()
    with connect(folder) as client:
        job_id = find_job(client, job)
        known = client.figures(job_id)
        target.mkdir(parents=True, exist_ok=True)
        for figure in known:
            path = target / f"{job_id[:8]}-{figure['name']}.{format}"
            path.write_bytes(client.figure(job_id, figure["name"], format))
            out.print(f"Saved {path}: {figure['title']}", soft_wrap=True)
    if not known:
        out.print("There is nothing to draw of this job yet.")
