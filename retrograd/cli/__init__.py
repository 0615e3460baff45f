"""The `retrograd` command."""

from __future__ import annotations

import sys

from core.errors import CoreError
from retrograd.cli.app import app
from retrograd.cli.console import complain
from retrograd.cli.datasets import datasets
from retrograd.cli.doctor import doctor
from retrograd.cli.jobs import cancel, kinds, logs, ls, pause, presets, resume, retry, show, status, submit, watch
from retrograd.cli.keys import keys
from retrograd.cli.programs import programs
from retrograd.cli.results import download, export_schedule, figures
from retrograd.cli.server import demo, up

for command in (
    demo,
    up,
    submit,
    ls,
    show,
    status,
    watch,
    logs,
    download,
    export_schedule,
    figures,
    pause,
    resume,
    cancel,
    retry,
    presets,
    kinds,
    doctor,
):
    app.command()(command)
app.add_typer(keys)
app.add_typer(datasets)
app.add_typer(programs)


def main() -> None:
    """Run one command. What can go wrong ends in one paragraph and status 1, not in a traceback."""
    try:
        app()
    except CoreError as error:
        complain(str(error))
        sys.exit(1)
    except OSError as error:
        complain(f"{error.strerror}: {error.filename}" if error.filename else str(error))
        sys.exit(1)
