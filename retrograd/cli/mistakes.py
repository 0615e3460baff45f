"""Mistakes in what a user has written, each shown where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from core.errors import CoreError
from retrograd.cli.positions import Path, Span, line_and_column
from retrograd.client.printable import printable

_TAB = "    "
_CUT = "…"
_LEAST_ROOM = 20  # cells


@dataclass(frozen=True)
class Written:
    """A text of the user's, and how to name it: a file, or one option."""

    name: str
    text: str
    is_option: bool = False


@dataclass(frozen=True)
class Mistake:
    """What is wrong and the remedy; the field; and the piece of the text to blame, where there is one."""

    message: str
    path: Path = ()
    written: Written | None = None
    span: Span | None = None

    @property
    def place(self) -> str:
        """As editors and terminals take it: file:line:column."""
        if self.written is None:
            return ""
        if self.written.is_option or self.span is None:
            return self.written.name
        line, column = line_and_column(self.written.text, self.span.start)
        return f"{self.written.name}:{line}:{column}"

    @property
    def heading(self) -> Text:
        """The place, the field and what is wrong."""
        heads = [(self.place, "bold"), (".".join(map(str, self.path)), "cyan"), (self.message, "")]
        return Text(": ").join(Text(words, style) for words, style in heads if words)

    def shown(self, width: int) -> Text:
        """The heading, and below it the line with a caret."""
        if self.written is None or self.span is None:
            return self.heading
        return self.heading.append("\n").append_text(_excerpt(self.written, self.span, width))

    def as_json(self) -> dict[str, Any]:
        """With `file`, `line` and `column`, or the `option`."""
        found: dict[str, Any] = {"loc": list(self.path), "msg": self.message}
        if self.written is None:
            return found
        if self.written.is_option:
            return found | {"option": f"{self.written.name} {self.written.text}"}
        found["file"] = self.written.name
        if self.span is not None:
            found["line"], found["column"] = line_and_column(self.written.text, self.span.start)
        return found


class Refused(CoreError):  # noqa: N818 - named for what happened
    """A job that cannot be asked for as it is written."""

    code = "invalid_spec"

    def __init__(self, what: str, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = mistakes
        number = "one mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        self.headline = f"{what} is refused: {number}"
        super().__init__("; ".join(mistake.heading.plain for mistake in mistakes))

    def details(self) -> dict[str, Any]:
        """The list of `{"loc", "msg", "file", "line", "column"}`."""
        return {"errors": [mistake.as_json() for mistake in self.mistakes]}


def _excerpt(written: Written, span: Span, width: int) -> Text:
    """The line in which `span` begins, cut to `width`, and carets below it."""
    number, column = line_and_column(written.text, span.start)
    line = printable(written.text.split("\n")[number - 1])  # as long as before
    begin, end = column - 1, min(column - 1 + span.stop - span.start, len(line))
    before, blamed, after = (part.replace("\t", _TAB) for part in (line[:begin], line[begin:end], line[end:]))
    gutter = f"  {written.name if written.is_option else number} │ "
    room = max(width - cell_len(gutter), _LEAST_ROOM)
    before = _cropped(before[::-1], room // 2)[::-1]
    rest = _cropped(blamed + after, room - cell_len(before))
    carets = max(1, min(cell_len(blamed), cell_len(rest)))
    empty = " " * (cell_len(gutter) - 2) + "│ "
    return Text.assemble(
        (gutter, "dim"), before, rest, "\n", (empty, "dim"), " " * cell_len(before), ("^" * carets, "bold red")
    )


def _cropped(text: str, cells: int) -> str:
    """Its beginning, where it takes more cells than there are."""
    return text if cell_len(text) <= cells else set_cell_size(text, cells - 1) + _CUT
