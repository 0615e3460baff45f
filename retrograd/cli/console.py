"""Where the command writes: results to standard output, complaints and progress notes to standard error."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, TextIO

import rich.console
import typer
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from retrograd.client.printable import is_harmful, printable

_WIDE = 200


class Console(rich.console.Console):
    """One to which nothing that comes from a server or a file can send controls: here all of it comes by."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As Rich does. Texts are made printable before they are laid out, and whatever is left after that."""
        if isinstance(renderable, str):
            renderable = printable(renderable)
        elif isinstance(renderable, Text):
            renderable = renderable.copy()
            renderable.plain = printable(renderable.plain)  # as long as before: styles stay where they are
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)


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
    sys.stdout.write(as_json(document, sys.stdout, indent=2) + "\n")


def print_json_line(document: Any) -> None:
    """One of many, at once: its reader may be waiting for it."""
    sys.stdout.write(as_json(document, sys.stdout) + "\n")
    sys.stdout.flush()


def as_json(document: Any, stream: TextIO, indent: int | None = None) -> str:
    """JSON as all read it, with escapes for what no terminal should be sent, and where the stream is not in UTF-8."""
    in_utf8 = codecs.lookup(stream.encoding or "utf-8").name == "utf-8"
    text = json.dumps(document, indent=indent, ensure_ascii=not in_utf8)
    if text.isprintable():
        return text
    return "".join(_escaped(sign) if is_harmful(sign) and sign != "\n" else sign for sign in text)


def _escaped(sign: str) -> str:
    return json.dumps(sign).strip('"') if sign > "\x7f" else f"\\u{ord(sign):04x}"


def tolerate() -> None:
    """Have the streams write what they cannot as something else, so that no character ends a command."""
    for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


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
