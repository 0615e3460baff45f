"""Routes for people, whose errors are pages, too."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.status import HTTP_404_NOT_FOUND

from api.dashboard.rendering import page
from api.deps import PAGE_HEADER
from api.errors import OUTAGES, status_of
from core.errors import CoreError


class Page(APIRoute):
    """A route for people: what is wrong is told on a page."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, around which errors become pages."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except CoreError as error:
                status = status_of(error)
                if status is None:
                    raise
                return page(request, "missing.html", status=status, detail=str(error))
            except RequestValidationError as error:
                places = {str(one["loc"][0]) for one in error.errors()}
                if "path" in places:
                    return page(request, "missing.html", status=404, detail=f"Nothing is at {request.url.path}.")
                names = ", ".join(sorted({str(one["loc"][:2][-1]) for one in error.errors()}))
                return page(
                    request, "missing.html", status=422, detail=f"The address asks for an impossible {names}."
                )

        return handled


def install(app: FastAPI) -> None:
    """Have pages tell what nobody foresaw, and that the database is away. What scripts ask for stays JSON."""
    kinds: tuple[type[Exception], ...] = (Exception, HTTPException, *OUTAGES)
    for kind in kinds:
        handle: Any = app.exception_handlers[kind]
        app.add_exception_handler(kind, _on_a_page(handle))


def _is_for_people(request: Request) -> bool:
    """Whether it is answered on a page: where one is, or where nothing is and a browser asks."""
    if PAGE_HEADER in request.headers or request.url.path.startswith("/v1/"):
        return False
    route = request.scope.get("route")
    return isinstance(route, Page) if route else "text/html" in request.headers.get("accept", "")


def _on_a_page(handle: Callable[[Request, Exception], Response]) -> Callable[[Request, Exception], Response]:
    def told(request: Request, error: Exception) -> Response:
        answer = handle(request, error)
        if not _is_for_people(request):
            return answer
        said = page(
            request,
            "missing.html",
            status=answer.status_code,
            **({} if answer.status_code == HTTP_404_NOT_FOUND else {"title": "Something went wrong"}),
            detail=json.loads(bytes(answer.body))["detail"],
        )
        for name in {"Connection", "Retry-After"} & set(map(str.title, answer.headers)):
            said.headers[name] = answer.headers[name]
        return said

    return told
