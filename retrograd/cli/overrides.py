"""`-s meta.num_iterations=100`: set one field of a job by its dotted path."""

from __future__ import annotations

import json
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import typer


def override(spec: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """A copy of `spec` with every `path=value` applied. Values are JSON, or else text."""
    spec = deepcopy(spec)
    for setting in settings:
        path, equals, text = setting.partition("=")
        *parents, field = path.strip().split(".")
        if not equals or not all((*parents, field)):
            raise typer.BadParameter(f"{setting!r} is not PATH=VALUE, such as meta.num_iterations=100")
        place: Any = spec
        for parent in parents:
            if place.get(parent) is None:  # left out, or null
                place[parent] = {}
            place = place[parent]
            if not isinstance(place, dict):
                raise typer.BadParameter(f"{setting!r}: {parent} is a value and has no fields")
        place[field] = _value(text.strip())
    return spec


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
