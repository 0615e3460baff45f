"""Errors as `application/problem+json` (RFC 9457), each with a stable `code`. One table decides the status."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.routing import Match

from api import invalid
from core.errors import (
    CoreError,
    DatasetTooLarge,
    InvalidDataset,
    InvalidProgram,
    InvalidSpec,
    PluginFailed,
    StorageUnavailable,
    UnknownFigure,
    UnsupportedDataset,
)
from core.presets import UnknownPreset
from core.store.errors import (
    DatasetInUse,
    IdempotencyConflict,
    IdempotentJobDeleted,
    InvalidCursor,
    LastAdminKey,
    NothingLearned,
    ProgramInUse,
    Pruned,
    QuotaExceeded,
    StateConflict,
    TooManyKeys,
    UnknownDelivery,
    UnknownIteration,
    UnknownJob,
    UnknownKey,
    UnknownProgram,
    UnknownUpload,
)

log = logging.getLogger(__name__)


class Unauthorized(CoreError):  # noqa: N818 - named for what happened
    """No key, or not one of ours."""

    code = "unauthorized"

    def __init__(
        self, said: str = "missing or unknown API key; send the header Authorization: Bearer rg_…"
    ) -> None:
        super().__init__(said)


class Forbidden(CoreError):  # noqa: N818
    """A key that may not do this."""

    code = "forbidden"

    def __init__(self, needed: str, scopes: Iterable[str]) -> None:
        self.needed = needed
        has = ", ".join(sorted(scopes)) or "none"
        super().__init__(f"this needs an API key with the scope {needed}; yours has: {has}")

    def details(self) -> dict[str, Any]:
        """The scope that is missing."""
        return {"scope": self.needed}


class RateLimited(CoreError):  # noqa: N818
    """Too many requests in too short a time."""

    code = "rate_limited"

    def __init__(self, policy: str, limit: int, window_seconds: int, retry_after: int) -> None:
        self.retry_after = retry_after
        self.headers = {
            "RateLimit-Policy": f'"{policy}";q={limit};w={window_seconds}',
            "RateLimit": f'"{policy}";r=0;t={retry_after}',
        }
        super().__init__(
            f"more than {limit} {policy} in {window_seconds} seconds; try again in {retry_after}, and ask less often"
        )


class UnsupportedMediaType(CoreError):  # noqa: N818
    """A body that does not say it is what the route reads."""

    code = "unsupported_media_type"

    def __init__(self, given: str, wanted: str = "application/json") -> None:
        super().__init__(f"cannot read a body of type {given or 'none'}; send Content-Type: {wanted}")


class Busy(CoreError):  # noqa: N818
    """More of this is being done than there is room for."""

    code = "busy"

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; try again in a few seconds")


class PlanFailed(CoreError):  # noqa: N818
    """A job that cannot be planned with what a plan may take, or not at all."""

    code = "plan_failed"

    def __init__(self, why: str) -> None:
        super().__init__(f"no plan could be made: {why}")


class InvalidParameter(CoreError):  # noqa: N818
    """A query parameter or header, or a combination of them, that makes no sense."""

    code = "invalid_parameter"

    def __init__(self, name: str, message: str, where: str = "query") -> None:
        self.name, self.where = name, where
        super().__init__(f"{name}: {message}")

    def details(self) -> dict[str, Any]:
        """Which parameter, in the form that bodies' errors have."""
        return {"errors": [{"loc": [self.where, self.name], "msg": str(self).removeprefix(f"{self.name}: ")}]}


OUTAGES: tuple[type[Exception], ...] = (OperationalError, InterfaceError, PoolTimeout)
"""What is raised while the database is away."""

STATUS: Mapping[type[CoreError], int] = {
    Unauthorized: 401,
    Forbidden: 403,
    UnknownJob: 404,
    UnknownKey: 404,
    UnknownDelivery: 404,
    UnknownIteration: 404,
    UnknownPreset: 404,
    UnknownFigure: 404,
    UnknownUpload: 404,
    UnknownProgram: 404,
    StateConflict: 409,
    NothingLearned: 409,
    LastAdminKey: 409,
    TooManyKeys: 409,
    DatasetInUse: 409,
    ProgramInUse: 409,
    IdempotencyConflict: 409,
    IdempotentJobDeleted: 410,
    Pruned: 410,
    DatasetTooLarge: 413,
    UnsupportedMediaType: 415,
    UnsupportedDataset: 415,
    InvalidDataset: 422,
    InvalidProgram: 422,
    InvalidSpec: 422,
    InvalidParameter: 422,
    InvalidCursor: 422,
    PlanFailed: 422,
    QuotaExceeded: 429,
    RateLimited: 429,
    PluginFailed: 500,
    StorageUnavailable: 503,
    Busy: 503,
}
_HEADERS: Mapping[type[CoreError], Mapping[str, str]] = {
    Unauthorized: {"WWW-Authenticate": 'Bearer realm="retrograd"'},
    StorageUnavailable: {"Retry-After": "30"},
    Busy: {"Retry-After": "2"},
}
_CODES = {400: "malformed_body", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


def problem(
    status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
) -> JSONResponse:
    """A problem document as a response."""
    document = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "code": code}
    return JSONResponse(
        document | {"detail": detail} | more,
        status_code=status,
        headers=dict(headers or {}),
        media_type="application/problem+json",
    )


def install(app: FastAPI) -> None:
    """Have every error of `app` answered with a problem document."""
    app.add_exception_handler(CoreError, _core_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    for outage in OUTAGES:
        app.add_exception_handler(outage, _database_away)
    app.add_exception_handler(Exception, _unexpected)


def status_of(error: CoreError) -> int | None:
    """Of the answer that tells of it; None where nobody foresaw it."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), None)


def _core_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, CoreError)  # noqa: S101 - for the type checker
    status = status_of(error)
    if status is None:
        return _unexpected(request, error)
    return problem(status, error.code, str(error), headers=_headers(error), **error.details())


def _headers(error: CoreError) -> dict[str, str]:
    headers = dict(_HEADERS.get(type(error), {}))
    if isinstance(error, RateLimited):
        headers |= error.headers
    if isinstance(error, QuotaExceeded | RateLimited) and error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return headers


def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - for the type checker
    kinds = {(found["type"], found["loc"][0]) for found in error.errors()}
    if ("json_invalid", "body") in kinds:
        found = error.errors()[0]
        detail = f"the body is not JSON: {found['ctx']['error']} at character {found['loc'][1]}"
        return problem(400, "malformed_body", detail)
    if any(where == "path" for _, where in kinds):
        return problem(404, "not_found", f"nothing is at {request.url.path}")
    errors = invalid.explain(error.errors(), error.body)
    in_body = any(where == "body" for _, where in kinds)
    detail = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in errors)
    return problem(422, "invalid_spec" if in_body else "invalid_parameter", detail, errors=errors)


def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker
    status = error.status_code
    detail = {
        404: f"nothing is at {request.url.path}",
        405: f"{request.method} is not allowed at {request.url.path}",
    }.get(status, str(error.detail))
    code = _CODES.get(status, HTTPStatus(status).phrase.lower().replace(" ", "_"))
    headers = {"Allow": ", ".join(_methods_at(request))} if status == 405 else error.headers
    return problem(status, code, detail, headers=headers)


def _methods_at(request: Request) -> list[str]:
    """Of all routes at this path; Starlette itself names those of the first.

    Only of those with the first one's path: /v1/jobs/cancel could be read as a job's, too.
    """
    routes = [route for router in request.app.state.routers for route in router.routes]
    found = [route for route in routes if route.matches(request.scope)[0] != Match.NONE]
    return sorted({name for route in found if route.path == found[0].path for name in route.methods})


def _database_away(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s: the database is away: %s", request.method, request.url.path, str(error).partition("\n")[0])
    return problem(
        503, "database_unavailable", "the database does not answer; try again", headers={"Retry-After": "2"}
    )


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    # the server ends the connection once it hears of the error: who reuses it would find it reset
    headers = {"Connection": "close"}
    return problem(500, "internal_error", "an error of ours; it is in the server's log", headers=headers)
