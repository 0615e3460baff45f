"""Where the command writes: results to standard output, complaints and progress notes to standard error."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

_WIDE = 200

# no markup: names and paths are users' own, and hold brackets; what is styled is a `Text`
out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)
if not out.is_terminal:
    out.width = _WIDE  # what reads a pipe or a file has no edge


def complain(message: str | Text) -> None:
    """One paragraph: what is wrong and the remedy. Not wrapped, so that it can be searched for."""
    err.print("error:", style="bold red", end=" ")
    err.print(message, soft_wrap=True)


def print_json(document: Any) -> None:
    """For programs: plain, whatever the terminal."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def print_json_line(document: Any) -> None:
    """One of many, at once: its reader may be waiting for it."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_rows(rows: list[Any], table: Callable[[list[Any]], Any], *, none: str, as_json: bool) -> None:
    """A list: for programs, or as a table; where it is empty, what to do about that."""
    if as_json:
        print_json(rows)
    elif rows:
        out.print(table(rows))
    else:
        out.print(none, soft_wrap=True)


def confirmed(question: str, *, yes: bool) -> None:
    """Go on where the answer is yes, or nobody is there to be asked."""
    if yes or not (sys.stdin.isatty() and err.is_terminal):
        return
    if not typer.confirm(question, err=True):
        err.print("Nothing was changed.")
        raise typer.Exit(1)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP act as Ctrl-C does, and SIGINT even where a shell has turned it off for `&`."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else started by nohup
        numbers.append(signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
