"""What Prometheus is told: how this process answers, and how the service stands."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.orm import Session, sessionmaker
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.store import overview

_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}  # anyone may send others, and make series
_SAID = {
    "queued_jobs": "Jobs that wait for a worker.",
    "running_jobs": "Jobs that a worker has.",
    "stored_bytes": "Bytes of learned values, data sets and programs, as quotas count them.",
    "device_seconds_today": "Seconds that jobs have had devices since midnight UTC.",
    "wake_ups": "Wake-ups that are due and not published; they rise while the broker is away.",
    "oldest_wake_up_seconds": "Age of the oldest of these.",
    "oldest_queued_seconds": "Since the job that waits longest was last woken.",
    "silent_jobs": "Running jobs whose lease has expired; the janitor takes them back.",
    "deliveries": "Webhooks that are due.",
    "unwritten_runs": "Ends of jobs that MLflow could not be told of; it is tried again.",
}


log = logging.getLogger(__name__)


class Metrics:
    """Those of one process of the API.

    Attributes:
        registry: what is shown.
        requests: seconds until an answer begins, by method, route and status.
        streams: event streams that are open.
    """

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "retrograd_http_request_seconds",
            "Until an answer begins.",
            ["method", "route", "status"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.streams = Gauge("retrograd_event_streams", "Event streams that are open.", registry=self.registry)
        self.registry.register(_Service(sessions))


class _Service(Collector):
    """Read from the database when it is asked for; without it, only that it is away."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self._sessions = sessions

    def describe(self) -> Iterator[Metric]:
        """Nothing is read to be registered."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """A gauge for each number of the overview."""
        try:
            with self._sessions() as session:
                found = overview.read(session)._asdict()
        except Exception as error:  # whatever keeps it from being read: an alarm needs to know that, and all else
            log.warning("the overview cannot be read: %s", str(error).partition("\n")[0])
            found = {}
        yield GaugeMetricFamily("retrograd_database_up", "1 if the database answers.", float(bool(found)))
        for name, value in found.items():
            yield GaugeMetricFamily(f"retrograd_{name}", _SAID[name], float(value))


class Timed:
    """ASGI middleware that measures until an answer begins. Routes are templates: ids make no series of their own."""

    def __init__(self, app: ASGIApp, requests: Histogram) -> None:
        self._app, self._requests = app, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on as it is."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, begun = time.perf_counter(), False

        def observe(status: int) -> None:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if route != "none" and scope["method"] in _METHODS else "any"
            self._requests.labels(method, route, str(status)).observe(time.perf_counter() - began)

        async def timed(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                observe(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, timed)
        except Exception:  # answered outside of this: see `errors._unexpected`
            if not begun:
                observe(500)
            raise
