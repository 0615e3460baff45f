"""`retrograd download`: what a job has learned, as a file."""

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
