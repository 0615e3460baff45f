"""The `retrograd` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, cast

import typer

from retrograd.cli.app import app
from retrograd.cli.changes import cancel, delete, pause, resume, retry
from retrograd.cli.completion import completion
from retrograd.cli.console import tolerate
from retrograd.cli.datasets import datasets
from retrograd.cli.doctor import doctor
from retrograd.cli.exits import Exit
from retrograd.cli.failures import TRACEBACK, UNFORESEEN, Failure
from retrograd.cli.jobs import kinds, logs, ls, presets, show, status, submit, watch
from retrograd.cli.keys import keys
from retrograd.cli.programs import programs
from retrograd.cli.results import curves, download, export_schedule, figures
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
    curves,
    export_schedule,
    figures,
    pause,
    resume,
    cancel,
    retry,
    delete,
    presets,
    kinds,
    doctor,
    completion,
):
    app.command()(command)
app.add_typer(keys)
app.add_typer(datasets)
app.add_typer(programs)


def main() -> None:
    """Run one command. What can go wrong ends in one paragraph and a status of `Exit`, not in a traceback."""
    tolerate()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """One command, told as the words after `retrograd`; its exit status."""
    as_json = "--json" in arguments
    try:
        status = app(list(arguments), standalone_mode=False)
        sys.stdout.flush()  # here, where a reader that has gone is no surprise
    except BrokenPipeError:  # silently, as Typer does where it meets one
        _give_up_output()
        return Exit.FAILED
    except (typer.Abort, KeyboardInterrupt):  # Ctrl-C or the end of input, where a question was asked
        return Exit.INTERRUPTED
    except Exception as error:
        failure = Failure.of(error)
        if failure.code == UNFORESEEN and os.environ.get(TRACEBACK):
            raise
        if isinstance(error, typer.TyperException) and not as_json:
            cast(Any, error).show()  # with the usage of the command
        else:
            failure.tell(as_json=as_json)
        if isinstance(error, OSError):
            _give_up_output(unless_it_works=True)
        return failure.status
    return status or Exit.DONE


def _give_up_output(*, unless_it_works: bool = False) -> None:
    """Python writes once more at its end, to a pipe that is closed or a disk that is full."""
    try:
        if unless_it_works:
            sys.stdout.flush()
            return
    except OSError:
        pass
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
