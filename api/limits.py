"""No request body larger than the limit is ever held, whether or not it declares its length."""

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
