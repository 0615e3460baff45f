"""The ASGI application: `uvicorn --factory api.app:create_app`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import CapacityLimiter
from fastapi import Depends, FastAPI
from starlette.concurrency import run_in_threadpool

from api import bootstrap, deps, errors, queries
from api.checks import Checker
from api.dashboard import pages, routes, session
from api.dashboard.rendering import HERE, Assets
from api.description import Described
from api.headers import Defaults
from api.last_used import LastUsed
from api.limits import BodyLimit, CookieLimit
from api.metrics import Metrics, Timed
from api.plans import Planner
from api.rates import Rates, Strangers
from api.routes import (
    curves,
    datasets,
    deliveries,
    events,
    figures,
    health,
    hyperparameters,
    jobs,
    keys,
    metrics,
    presets,
    problem_kinds,
    programs,
    project,
)
from api.streams import Streams
from api.uploads import FORM_BYTES, TAKEN_AT_ONCE
from core import plugins
from core.config import Settings, get_settings
from core.storage import open_storage
from core.store.session import close_store, open_store

_MAX_COOKIE_BYTES = 4096


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service on the database of `settings`, by default those of the environment."""
    settings = settings or get_settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(bootstrap.store_key, app.state.sessions, settings)
        await run_in_threadpool(plugins.installed)  # now, and not while a request holds a transaction
        app.state.parsing = CapacityLimiter(datasets.PARSED_AT_ONCE)
        app.state.uploading = CapacityLimiter(TAKEN_AT_ONCE)
        yield
        app.state.planner.close()
        app.state.checker.close()
        await app.state.streams.close()
        app.state.last_used.close()
        close_store(app.state.sessions)

    app = Described(
        docs_url=None,  # from a foreign host by default, whose script would be a reader's
        redoc_url=None,
        lifespan=lifespan,
        dependencies=[Depends(queries.check)],
    )
    app.state.settings = settings
    app.state.sessions = open_store(settings.database_url, application="retrograd api")
    app.state.turns = asyncio.Semaphore(deps.TURNS)
    app.state.planner = Planner(settings)
    app.state.checker = Checker(settings)
    app.state.metrics = Metrics(app.state.sessions)
    app.state.streams = Streams(app.state.sessions, settings)
    app.state.metrics.streams.set_function(app.state.streams.count)
    app.state.rates = Rates(settings)
    app.state.strangers = Strangers(settings)
    app.state.last_used = LastUsed(app.state.sessions)
    app.state.storage = open_storage(settings)
    uploads = {
        ("POST", datasets.router.prefix): settings.max_upload_bytes + FORM_BYTES,
        ("POST", programs.router.prefix): settings.max_program_bytes + FORM_BYTES,
        ("POST", "/login"): session.FORM_BYTES,
    }
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, of=uploads)
    app.add_middleware(CookieLimit, max_bytes=_MAX_COOKIE_BYTES)
    app.add_middleware(Defaults)
    app.add_middleware(Timed, requests=app.state.metrics.requests)
    errors.install(app)
    routes.install(app)
    app.add_exception_handler(session.SignInNeeded, session.to_sign_in)
    app.mount("/static", Assets(directory=HERE / "static"), name="static")
    modules = (
        jobs,
        events,
        datasets,
        programs,
        hyperparameters,
        curves,
        figures,
        deliveries,
        presets,
        problem_kinds,
        project,
        keys,
        health,
        metrics,
    )
    app.state.routers = [module.router for module in modules]
    app.state.routers += [session.router, pages.router]
    for router in app.state.routers:
        app.include_router(router)
    return app
