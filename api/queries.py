"""What stands after the question mark: each parameter once, only those that the route has, and numbers in digits.

Otherwise `POST /v1/jobs/cancel?stat=queued` would cancel every job.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from typing import Any, get_args, get_origin

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import ParamTypes
from fastapi.routing import APIRoute

from api.errors import InvalidParameter

_MAX_SHOWN = 60  # characters of a name
_WHOLE = re.compile(r"-?[0-9]+")


def check(request: Request) -> None:
    """A dependency of every route.

    Raises:
        InvalidParameter: one is unknown, given twice, or a whole number in letters that only Python would read.
    """
    values = request.query_params.multi_items()
    given = Counter(name for name, _ in values)
    if not given:
        return
    known = _known(request)
    for name, times in given.items():
        shown = name[:_MAX_SHOWN]
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"known here: {', '.join(sorted(known)) or 'none'}"
            raise InvalidParameter(shown, f"unknown parameter; {remedy}")
        if times > 1 and get_origin(known[name]) is not list:
            raise InvalidParameter(shown, f"given {times} times; give it once")
    for name, value in values:
        if _may_be_whole(known[name]) and not _WHOLE.fullmatch(value) and _python_reads(value):
            raise InvalidParameter(name, "write whole numbers in digits alone, such as 20")


def _known(request: Request) -> dict[str, Any]:
    """Names, with the types of their values."""
    route = request.scope["route"]
    if not isinstance(route, APIRoute):
        return {}
    parameters = get_flat_params(route.dependant)
    return {
        one.alias: one.field_info.annotation
        for one in parameters
        if getattr(one.field_info, "in_", None) == ParamTypes.query
    }


def _may_be_whole(annotation: Any) -> bool:
    return annotation is int or any(map(_may_be_whole, get_args(annotation)))


def _python_reads(value: str) -> bool:
    """As a number: with a plus, which forms make a space, with spaces, underscores or the digits of other scripts."""
    try:
        int(value)
    except ValueError:
        return False
    return True
