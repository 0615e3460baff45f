"""Templates, and what they have in common."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

HERE = Path(__file__).parent
HEADERS = {
    # nothing but what this server sends is run or shown, and no other site may show it in a frame
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "private, no-store",
}

_LEAST, _MOST = 1e-4, 1e6
_SPEAK = ("code", "message")  # for themselves: their names are not said
_THOUSAND = 999.5  # what rounds to it
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _number(value: float | None) -> str:
    """Four digits that matter; a dash where there is no value. Powers of ten for what would be a row of zeros."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0 or _LEAST <= abs(value) < _MOST:
        digits = 3 if value == 0 else max(0, 3 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{digits}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, _, power = f"{value:.3e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')} × 10{str(int(power)).translate(_RAISED)}"


def _whole(value: int) -> str:
    return f"{value:,}"


def _bytes(size: int) -> str:
    """In the unit that leaves one to three digits before the point."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < _THOUSAND:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def _duration(seconds: float | None) -> str:
    """The two largest units."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _told(value: Any) -> str:
    return _number(value) if isinstance(value, float) else str(value)


def _particulars(data: dict[str, Any], kind: str) -> str:
    """What an event of this kind says: as `live.js` has it."""
    named = ((name, _told(one)) for name, one in data.items())
    return ", ".join(one if name in (kind, *_SPEAK) else f"{name.replace('_', ' ')} {one}" for name, one in named)


def _iso(when: datetime | None) -> str:
    return "" if when is None else when.isoformat(timespec="seconds")


_environment = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # a specification reads in its own order
_environment.filters |= {
    "particulars": _particulars,
    "number": _number,
    "whole": _whole,
    "bytes": _bytes,
    "duration": _duration,
    "iso": _iso,
}
_templates = Jinja2Templates(env=_environment)


def page(request: Request, template: str, *, status: int = 200, **context: Any) -> HTMLResponse:
    """A page, or a part of one."""
    return _templates.TemplateResponse(request, template, context, status_code=status, headers=HEADERS)


class Assets(StaticFiles):
    """Styles and scripts, which browsers ask about each time: after an upgrade old ones would not fit the pages."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        """See `StaticFiles`."""
        response = super().file_response(*arguments, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response
