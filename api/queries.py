"""What stands after the question mark: each parameter once, and only those that the route has.

Otherwise `POST /v1/jobs/cancel?stat=queued` would cancel every job.
"""

from __future__ import annotations

import difflib
from collections import Counter
from typing import get_origin

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import ParamTypes
from fastapi.routing import APIRoute

from api.errors import InvalidParameter

_MAX_SHOWN = 60  # characters of a name


def check(request: Request) -> None:
    """A dependency of every route.

    Raises:
        InvalidParameter: one is unknown, or given twice.
    """
    given = Counter(name for name, _ in request.query_params.multi_items())
    if not given:
        return
    known = _known(request)
    for name, times in given.items():
        shown = name[:_MAX_SHOWN]
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"known here: {', '.join(sorted(known)) or 'none'}"
            raise InvalidParameter(shown, f"unknown parameter; {remedy}")
        if times > 1 and not known[name]:
            raise InvalidParameter(shown, f"given {times} times; give it once")


def _known(request: Request) -> dict[str, bool]:
    """Names, and whether each may be given more than once."""
    route = request.scope["route"]
    if not isinstance(route, APIRoute):
        return {}
    parameters = get_flat_params(route.dependant)
    return {
        one.alias: get_origin(one.field_info.annotation) is list
        for one in parameters
        if getattr(one.field_info, "in_", None) == ParamTypes.query
    }
