"""Numbers for Prometheus."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from api.deps import SettingsDep
from api.errors import Unauthorized

router = APIRouter(tags=["health"])

_bearer = HTTPBearer(auto_error=False, description="RETROGRAD_METRICS_TOKEN", scheme_name="metrics token")


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(
    request: Request,
    settings: SettingsDep,
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Response:
    """Of all projects together, so not for their keys: it asks for a token of its own, and is not there without one."""
    wanted = settings.metrics_token.get_secret_value()
    if not wanted:
        raise HTTPException(404)
    if given is None or not secrets.compare_digest(given.credentials.encode(), wanted.encode()):
        raise Unauthorized("send the header Authorization: Bearer with the RETROGRAD_METRICS_TOKEN of this server")
    return Response(generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)
