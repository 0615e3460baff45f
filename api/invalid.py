"""What is wrong with a request, in words that say what to do: where in the body, why, and the remedy."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel

from api.schemas.jobs import JobRequest

_NOTHING = "must be None"
_MAX_ERRORS = 20
_MAX_SHOWN = 60  # characters of a rejected value
_BRIEF = reprlib.Repr()  # looks no deeper than a few levels, where repr() itself could run out of stack
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = _MAX_SHOWN

Location = tuple[str | int, ...]


def explain(errors: Sequence[Any], body: Any) -> list[dict[str, Any]]:
    """Pydantic's errors as `{"loc", "msg"}`, one for each place.

    `loc` is a path in the body; for other parts of the request it begins with their name, such as "query".
    """
    messages: dict[Location, list[str]] = {}
    for error in errors:
        where, *path = error["loc"]
        location = _in_body(path, error["type"], body) if where == "body" else (where, *path[:1])
        message = _message(error, location)
        if message not in messages.setdefault(location, []):  # one for each branch of a union
            messages[location].append(message)
    explained = [
        {"loc": [_named(part) for part in location], "msg": " or ".join(_told(found))}
        for location, found in messages.items()
    ]
    left_out = len(explained) - _MAX_ERRORS
    if left_out > 0:
        return [*explained[:_MAX_ERRORS], {"loc": [], "msg": f"and {left_out} more errors"}]
    return explained


def _told(messages: list[str]) -> list[str]:
    """Without that a field may be left out, where there is more to say."""
    return [one for one in messages if not one.startswith(_NOTHING)] or messages


def _in_body(path: Sequence[str | int], kind: str, body: Any) -> Location:
    """`path` without the names of union branches, which Pydantic puts between those of fields."""
    found: list[str | int] = []
    here = body
    for number, part in enumerate(path):
        if _has(here, part):
            here = here[part]
        elif kind not in ("missing", "extra_forbidden") or number < len(path) - 1:
            continue
        found.append(part)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        found.append("kind")
    return tuple(found)


def _has(container: Any, part: str | int) -> bool:
    if isinstance(container, dict):
        return part in container
    return isinstance(container, list) and isinstance(part, int) and part < len(container)


def _message(error: Any, location: Location) -> str:
    kind, text = error["type"], error["msg"]
    if kind == "missing":
        return "required; add it"
    if kind == "extra_forbidden":
        known = sorted(_fields_at(location[:-1]))
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        return (
            f"unknown field; did you mean {near[0]!r}?"
            if near
            else (f"unknown field; remove it, or use one of: {', '.join(known)}")
        )
    if kind == "union_tag_not_found":
        return f"required; {_kinds(location)}"
    if kind == "union_tag_invalid":
        taken = error["ctx"]["expected_tags"].replace("'", "")
        near = difflib.get_close_matches(str(error["ctx"]["tag"]), taken.split(", "), n=1, cutoff=0.7)
        meant = f"did you mean {near[0]!r}? " if near else ""
        return f"no kind {_shown(error['ctx']['tag'])} here; {meant}must be one of: {taken}"
    if kind == "value_error":
        return str(error["ctx"]["error"])
    said = (
        text.replace("Input should", "must").replace("a valid tuple", "a list").replace("a valid list", "a list")
    )
    return f"{said}, not {_shown(error['input'])}"


def _kinds(location: Location) -> str:
    kinds = [get_args(model.model_fields["kind"].annotation)[0] for model in _models_at(location[:-1])]
    return f"must be one of: {', '.join(dict.fromkeys(kinds))}"


def _fields_at(location: Location) -> set[str]:
    return {name for model in _models_at(location) for name in model.model_fields}


def _models_at(location: Location) -> list[type[BaseModel]]:
    """The models of which one stands at this place of a job's request."""
    models: list[type[BaseModel]] = [JobRequest]
    for part in location:
        annotations = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        models = [model for annotation in annotations for model in _models_in(annotation)]
    return models


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _shown(value: Any) -> str:
    return _printable(_BRIEF.repr(value))


def _named(part: str | int) -> str | int:
    return _printable(part[:_MAX_SHOWN]) if isinstance(part, str) else part


def _printable(text: str) -> str:
    """As JSON can carry it: half of a surrogate pair cannot be encoded."""
    return text.encode("utf-8", "backslashreplace").decode()
