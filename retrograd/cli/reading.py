"""Files that hold a job as JSON. What cannot be read or sent is refused where it stands."""

from __future__ import annotations

import codecs
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path as File
from typing import Any

from retrograd.cli.mistakes import Mistake, Refused, Written
from retrograd.cli.positions import Node, Path, Span, locate

_NUMBER = re.compile(r"NaN|-?Infinity|-?\d+(\.\d+)?([eE][+-]?\d+)?")  # as Python reads them

_DEEPEST = 100  # levels: far more than a job has, and far fewer than Python can copy and send
_TOO_DEEP = f"cannot be read: it is nested more than {_DEEPEST} levels deep; a job has a few"


def read_file(name: str) -> tuple[dict[str, Any], Written, Node]:
    """A JSON object from a file, or, of the name `-`, from standard input; the text, and where in it all stands.

    Raises:
        Refused: it is no JSON object, or none that can be sent.
    """
    shown = "stdin" if name == "-" else name
    try:
        data = sys.stdin.buffer.read() if name == "-" else File(name).read_bytes()
    except OSError as error:
        raise Refused(shown, [Mistake(_unread(name, error), (), Written(shown, ""))]) from error
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        where = len(data[: error.start].decode())
        text = data.decode(errors="replace")
        raise _refused(shown, text, "is not UTF-8; save it as UTF-8", Span(where, where + 1)) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # within strings there is neither
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        where = min(error.pos, len(text.rstrip()))  # not on an empty line at the end
        raise _refused(shown, text, f"is not JSON: {_why(error)}", Span(where, where + 1)) from error
    except RecursionError as error:
        raise _refused(shown, text, _TOO_DEEP, None) from error
    except ValueError as error:  # a number of thousands of digits
        raise _refused(shown, text, f"cannot be read: {error}", None) from error
    root = locate(text)
    if not isinstance(document, dict):
        message = "is not a job, which is an object in braces; `retrograd presets --json` shows some"
        raise _refused(shown, text, message, root.beginning)
    written = Written(shown, text)
    check_sendable(shown, [((), written, root)])
    return document, written, root


def check_sendable(name: str, pieces: Sequence[tuple[Path, Written, Node]]) -> None:
    """Refuse what Python reads and what yet cannot be sent, or is there twice.

    Args:
        name: of the job.
        pieces: of it, each with its path.
    """
    for path, written, root in pieces:
        if any(len(path) + len(inner) > _DEEPEST for inner, _ in root.walk()):
            raise Refused(name, [Mistake(_TOO_DEEP, path, written)])
    found = [
        Mistake(message, (*path, *inner), written, span)
        for path, written, root in pieces
        for inner, span, message in _unsendable(written.text, root)
    ]
    if found:
        raise Refused(name, found)


def _unsendable(text: str, root: Node) -> Iterator[tuple[Path, Span, str]]:
    for path, node in root.walk():
        for again in node.repeated:
            key = json.loads(text[again.start : again.stop])
            yield (*path, key), again, "is there more than once; keep one of them"
        for span in (node.key, node.span):
            token = "" if span is None else text[span.start : span.stop]
            if span is not None and (message := _wrong_with(token)):
                yield path, span, message


def _wrong_with(token: str) -> str | None:
    if token[:1] in ("{", "["):
        return None
    if not _is_text(token) or (token[:1] == '"' and not _is_text(_string(token))):
        return "holds half of a character, which cannot be sent; remove it"
    if _NUMBER.fullmatch(token) and not math.isfinite(float(token)):
        return f"{token} is no finite number; give one"
    return None


def _string(token: str) -> str:
    try:
        return str(json.loads(token))
    except ValueError:  # plain text of a setting that begins with a quote
        return token


def _is_text(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _unread(name: str, error: OSError) -> str:
    from core import presets  # loads the specification: only where it helps

    meant = f"; did you mean --preset {name}?" if name in presets.names() else ""
    return f"cannot be read: {error.strerror or error}{meant}"


def _why(error: json.JSONDecodeError) -> str:
    """What Python says, whose words change from version to version, with the remedy that helps most often."""
    return {
        "Expecting property name enclosed in double quotes": "a name in double quotes is missing here, or a comma is "
        "too much",
        "Illegal trailing comma before end of object": "remove the comma after the last field",
        "Illegal trailing comma before end of array": "remove the comma after the last value",
        "Expecting ',' delimiter": "a comma is missing before this, or something is not closed",
        "Expecting ':' delimiter": "a colon is missing after the name",
        "Expecting value": "a value is missing here; text stands in double quotes, and there are no comments",
        "Extra data": "the job ended before this; remove what follows",
    }.get(error.msg, error.msg.lower())


def _refused(name: str, text: str, message: str, span: Span | None) -> Refused:
    return Refused(name, [Mistake(message, (), Written(name, text), span)])
