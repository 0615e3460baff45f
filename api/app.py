"""The ASGI application: `uvicorn --factory api.app:create_app`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import CapacityLimiter
from fastapi import Depends, FastAPI
from starlette.concurrency import run_in_threadpool

from api import bootstrap, errors, queries
from api.limits import BodyLimit
from api.routes import datasets, deliveries, figures, health, hyperparameters, jobs, presets
from api.schemas import Problem
from core.config import Settings, get_settings
from core.storage import open_storage
from core.store.session import close_store, open_store

_FORM_BYTES = 1 << 16  # that stand around the files of an upload
_PROBLEM = {"application/problem+json": {"schema": Problem.model_json_schema()}}


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service on the database of `settings`, by default those of the environment."""
    settings = settings or get_settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(bootstrap.store_key, app.state.sessions, settings)
        app.state.parsing = CapacityLimiter(datasets.PARSED_AT_ONCE)
        yield
        close_store(app.state.sessions)

    app = FastAPI(
        title="Retrograd",
        version="1",
        summary="Learns hyperparameters by gradient descent through whole training runs.",
        lifespan=lifespan,
        dependencies=[Depends(queries.check)],
        responses={"4XX": {"description": "What is wrong, after RFC 9457", "content": _PROBLEM}},
    )
    app.state.settings = settings
    app.state.sessions = open_store(settings.database_url, application="retrograd api")
    app.state.storage = open_storage(settings)
    uploads = {("POST", datasets.router.prefix): settings.max_upload_bytes + _FORM_BYTES}
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, of=uploads)
    errors.install(app)
    modules = (jobs, datasets, hyperparameters, figures, deliveries, presets, health)
    app.state.routers = [module.router for module in modules]
    for router in app.state.routers:
        app.include_router(router)
    return app
