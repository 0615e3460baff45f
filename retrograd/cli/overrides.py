"""`-s meta.num_iterations=100`: set one field of a job by its dotted path."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import typer

from retrograd.cli.mistakes import Written
from retrograd.cli.positions import Node, Span, locate

_SETTING = re.compile(r"\s*(?P<path>[^.=\s]+(\.[^.=\s]+)*)\s*=\s*(?P<value>.*?)\s*", re.DOTALL)


@dataclass(frozen=True)
class Setting:
    """A field and its value, and where both stand in what was typed."""

    written: Written
    path: tuple[str, ...]
    parts: tuple[Span, ...]  # of the path
    value: Any
    node: Node  # of the value

    @classmethod
    def read(cls, text: str) -> Setting:
        """`path=value`. Values are JSON, or else text."""
        found = _SETTING.fullmatch(text)
        if found is None:
            raise typer.BadParameter(f"{text!r} is not PATH=VALUE, such as meta.num_iterations=100")
        parts = tuple(Span(*part.span()) for part in re.compile(r"[^.]+").finditer(text, *found.span("path")))
        span, given = Span(*found.span("value")), found["value"]
        try:
            value, node = json.loads(given), locate(text[: span.stop], span.start)
        except (ValueError, RecursionError):
            value, node = given, Node(span)
        names = tuple(text[part.start : part.stop] for part in parts)
        return cls(Written("-s", text, is_option=True), names, parts, value, node)


def override(spec: dict[str, Any], settings: Iterable[Setting]) -> dict[str, Any]:
    """A copy of `spec` with every setting applied."""
    spec = deepcopy(spec)
    for setting in settings:
        *parents, field = setting.path
        place: Any = spec
        for parent in parents:
            if place.get(parent) is None:  # left out, or null
                place[parent] = {}
            place = place[parent]
            if not isinstance(place, dict):
                raise typer.BadParameter(f"{setting.written.text!r}: {parent} is a value and has no fields")
        place[field] = setting.value
    return spec
