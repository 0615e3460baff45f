"""Functions that users give: whether they can be called as they will be."""

from __future__ import annotations

import inspect
from reprlib import repr as short
from typing import Any

from core.errors import CoreError


def check_callable(name: str, function: Any, wanted: tuple[str, ...], error: type[CoreError]) -> None:
    """Raise `error`, which says `name`, unless `function` takes these arguments by position."""
    if not callable(function):
        raise error(f"{name} is {short(function)}; give a function of ({', '.join(wanted)})")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # builtins do not tell theirs
    try:
        signature.bind(*wanted)
    except TypeError as wrong:
        raise error(
            f"{name} takes {signature}, but is called with ({', '.join(wanted)}): {wrong}; let it take these"
        ) from None
