"""Where in a JSON text each value and each key stands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Path = tuple[str | int, ...]

_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_TOKEN = re.compile(rf'{_STRING}|[{{}}\[\],:]|[^\s{{}}\[\],:"]+')


class Span(NamedTuple):
    """A piece of a text, by the offsets of its characters."""

    start: int
    stop: int


@dataclass
class Node:
    """A value. Of a key that is given twice the last one counts, as for `json.loads`."""

    span: Span
    key: Span | None = None  # of its key, where it stands in an object
    children: dict[str | int, Node] = field(default_factory=dict)
    repeated: list[Span] = field(default_factory=list)  # keys in this object that it has had before

    @property
    def beginning(self) -> Span:
        """Its first character: an opening bracket stands for all within."""
        return Span(self.span.start, min(self.span.start + 1, self.span.stop))

    def follow(self, path: Sequence[str | int]) -> tuple[Node, int]:
        """The deepest node on the way along `path`, and how many parts of it lead there."""
        node, taken = self, 0
        while taken < len(path) and (child := node.children.get(path[taken])) is not None:
            node, taken = child, taken + 1
        return node, taken

    def walk(self, path: Path = ()) -> Iterator[tuple[Path, Node]]:
        """This node and all below it, each with its path, in the text's order."""
        waiting = [(path, self)]
        while waiting:
            path, node = waiting.pop()
            yield path, node
            waiting += [((*path, name), child) for name, child in reversed(node.children.items())]


def locate(text: str, start: int = 0) -> Node:
    """The tree of positions of a text, or of its rest from `start` on, which `json.loads` has accepted.

    That leaves little to do: strings are whole, and brackets, commas and colons stand where they must.
    """
    root: Node | None = None
    within: list[Node] = []  # containers that are still open
    key: Span | None = None  # of the value that comes next
    for token in _TOKEN.finditer(text, start):
        sign, span = token[0], Span(*token.span())
        if sign in ",:":
            continue
        if sign in "]}":
            closed = within.pop()
            closed.span = Span(closed.span.start, span.stop)
            continue
        holder = within[-1] if within else None
        in_object = holder is not None and text[holder.span.start] == "{"
        if in_object and key is None:
            key = span
            continue
        node = Node(span, key)
        if holder is None:
            root = node
        elif key is None:
            holder.children[len(holder.children)] = node
        else:
            name = json.loads(text[key.start : key.stop])
            if holder.children.pop(name, None) is not None:  # so that the last one stands where it is
                holder.repeated.append(key)
            holder.children[name] = node
        key = None
        if sign in "[{":
            within.append(node)
    if root is None:
        raise ValueError("no JSON value")
    return root


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    """Both from 1 on; columns count characters."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
