"""What a specification's digest is taken of: fields that came later are left out where they say what always was."""

from __future__ import annotations

from typing import Any

_CAME_LATER: tuple[tuple[tuple[str, ...], Any], ...] = (
    (("training", "checkpoints"), 1),
    (("training", "batches"), "in_order"),
    (("problem", "dataset", "standardise"), "none"),
    (("problem", "loss"), {"kind": "cross_entropy"}),
)


def without_later_defaults(document: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a specification as it was before those fields, where they have the values that were implied.

    So the digests of specifications from before there were any stay true.
    """
    for path, implied in _CAME_LATER:
        document = _without(document, path, implied)
    return document


def _without(document: dict[str, Any], path: tuple[str, ...], implied: Any) -> dict[str, Any]:
    name, *rest = path
    if name not in document:
        return document
    if rest:
        inner = document[name]
        return document | {name: _without(inner, tuple(rest), implied)} if isinstance(inner, dict) else document
    return {other: value for other, value in document.items() if other != name or value != implied}
