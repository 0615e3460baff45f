"""Signing in: the browser keeps an API key where no script can read it, and sends it to this server alone."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import parse_qsl, quote, urlsplit

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from api.dashboard.rendering import page
from api.dashboard.routes import Page
from api.deps import PAGE_HEADER, SessionDep, caller_of, cookie_name, cookie_of
from api.errors import RateLimited, Unauthorized, problem
from core.store.keys import Caller, Scope

router = APIRouter(include_in_schema=False, route_class=Page)

FORM_BYTES = 8192

_DAYS = 30
_FIELDS = 8
_FORM = "application/x-www-form-urlencoded"


class SignInNeeded(Exception):  # noqa: N818 - named for what happened
    """A page was asked for without a key that may look at it."""


def _from_here(request: Request) -> None:
    """Refuse forms of other sites: they could sign a reader in as somebody else, and have their data."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    if site not in ("same-origin", "none") or (
        origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    ):
        raise HTTPException(403, "the form was sent by another site, or by a proxy that changes the header Host")


HereDep = Depends(_from_here)


def _visitor(request: Request, session: SessionDep) -> Caller:
    try:
        caller = caller_of(request, session, cookie_of(request))
    except Unauthorized:
        raise SignInNeeded from None
    if not caller.may(Scope.READ):
        raise SignInNeeded
    return caller


VisitorDep = Annotated[Caller, Depends(_visitor)]


def to_sign_in(request: Request, error: Exception) -> Response:
    """Where a page sends who is not signed in; they come back to it afterwards. Its scripts go there by themselves."""
    if PAGE_HEADER in request.headers:
        return problem(401, Unauthorized.code, "sign in again")
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    after = "" if wanted == "/" or request.method != "GET" else f"?next={quote(wanted)}"
    return RedirectResponse(f"/login{after}", status_code=303)


@router.get("/login")
def login(request: Request, next: str = "/") -> HTMLResponse:
    """Ask for a key."""
    return page(request, "login.html", next=_ours(next))


async def _form(request: Request) -> dict[str, str]:
    """What the form says. Read here: a library would decode it by any codec that the sender names."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != _FORM:
        return {}
    try:
        return dict(parse_qsl((await request.body()).decode("ascii"), max_num_fields=_FIELDS))
    except ValueError:
        return {}


@router.post("/login", dependencies=[HereDep])
def sign_in(request: Request, session: SessionDep, form: Annotated[dict[str, str], Depends(_form)]) -> Response:
    """Keep the key in a cookie, if it is one of ours that may look."""
    key, next = form.get("key", ""), form.get("next", "/")
    key = key.strip()
    try:
        may = caller_of(request, session, key).may(Scope.READ)
    except Unauthorized:
        return page(request, "login.html", status=401, next=_ours(next), wrong="This is no key of this server.")
    except RateLimited as error:
        return page(request, "login.html", status=429, next=_ours(next), wrong=str(error))
    if not may:
        return page(request, "login.html", status=403, next=_ours(next), wrong="This key may not read.")
    answer = RedirectResponse(_ours(next), status_code=303)
    answer.set_cookie(
        cookie_name(request),
        key,
        max_age=_DAYS * 86_400,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/logout", dependencies=[HereDep])
def sign_out(request: Request) -> Response:
    """Forget the key."""
    answer = RedirectResponse("/login", status_code=303)
    answer.delete_cookie(cookie_name(request), httponly=True, samesite="strict")
    return answer


def _ours(where: str) -> str:
    """A path on this server; anything else is the front page."""
    return where if re.match(r"/(?![/\\])", where) and where.isprintable() else "/"
