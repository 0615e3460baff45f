"""No request body larger than the limit is ever held, whether or not it declares its length; no long cookie is read."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import problem


class BodyLimit:
    """ASGI middleware that counts bytes as they come."""

    def __init__(self, app: ASGIApp, max_bytes: int, of: Mapping[tuple[str, str], int]) -> None:
        """`of` holds the limits of those methods and paths that have one of their own."""
        self._app, self._max_bytes, self._of = app, max_bytes, of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413 to a body declared too large; count the others."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_bytes = self._of.get((scope["method"], scope["path"]), self._max_bytes)
        detail = f"the body is larger than {max_bytes} bytes; send a smaller one"
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > max_bytes:
            await problem(413, "body_too_large", detail)(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > max_bytes:
                raise HTTPException(413, detail)  # FastAPI lets it pass where it hides other errors
            return message

        await self._app(scope, counted, send)


class CookieLimit:
    """ASGI middleware that refuses cookies longer than any of ours: to read them takes as long as their square."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 431 where they are too long."""
        if scope["type"] == "http":
            held = sum(len(value) for name, value in scope["headers"] if name == b"cookie")
            if held > self._max_bytes:
                detail = f"cookies of {held} bytes, more than {self._max_bytes}; delete those of this site"
                await problem(431, "header_too_large", detail)(scope, receive, send)
                return
        await self._app(scope, receive, send)
