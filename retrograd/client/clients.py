"""The clients: one that waits for answers, and one whose answers are awaited."""

from __future__ import annotations

from typing import Self

from retrograd.client import calls
from retrograd.client.async_jobs import AsyncJobs
from retrograd.client.async_project import AsyncDatasets, AsyncKeys, AsyncPresets, AsyncPrograms
from retrograd.client.call import Json, Rows
from retrograd.client.carriers import AsyncCarrier, Carrier
from retrograd.client.exchanges import send
from retrograd.client.jobs import Jobs
from retrograd.client.project import Datasets, Keys, Presets, Programs
from retrograd.client.server import Server
from retrograd.home import Home

_SECONDS = 30.0


class Client:
    """One server and one key. Of any thread.

    Without arguments: `RETROGRAD_URL` and `RETROGRAD_API_KEY`, else the embedded stack of this folder.

    Requests that are lost on the way are sent again where that does no harm; creations of jobs are, under one
    `Idempotency-Key`. A server that is busy, or that has had too many requests, is asked again when it wants to be.

    Raises:
        ApiError: from every method, when the server says no.
        ServerUnreachable: when it does not answer, or none is known.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        home: Home | None = None,
        timeout: float = _SECONDS,
    ) -> None:
        """Connect to nothing yet.

        Raises:
            InvalidKey: the key holds what no key does.

        Args:
            url: of the server, such as http://127.0.0.1:8000.
            api_key: an rg_… key. The key of the embedded stack is never sent to another server.
            home: folder of the embedded stack.
            timeout: seconds to wait for a connection or an answer.
        """
        server = Server.found(url, api_key, home)
        self.url = server.url
        self._carrier = Carrier(server, timeout)
        self.jobs = Jobs(self._carrier)
        self.datasets = Datasets(self._carrier)
        self.programs = Programs(self._carrier)
        self.presets = Presets(self._carrier)
        self.keys = Keys(self._carrier)

    def project(self) -> Json:
        """The project that this key speaks for: its name, its quotas, and what is used of each."""
        return self._carrier.run(send(calls.get_project()))

    def problem_kinds(self) -> Rows:
        """What `problem` in a job may be, with JSON Schemas: kinds of the service, and of installed packages."""
        return self._carrier.run(send(calls.list_problem_kinds()))

    def close(self) -> None:
        """Close the connections."""
        self._carrier.close()

    def __repr__(self) -> str:
        return f"<Client of {self.url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class AsyncClient:
    """`Client`, whose methods, and those of what it has, are awaited. Of one event loop."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        home: Home | None = None,
        timeout: float = _SECONDS,
    ) -> None:
        """Connect to nothing yet; arguments as of `Client`."""
        server = Server.found(url, api_key, home)
        self.url = server.url
        self._carrier = AsyncCarrier(server, timeout)
        self.jobs = AsyncJobs(self._carrier)
        self.datasets = AsyncDatasets(self._carrier)
        self.programs = AsyncPrograms(self._carrier)
        self.presets = AsyncPresets(self._carrier)
        self.keys = AsyncKeys(self._carrier)

    async def project(self) -> Json:
        return await self._carrier.run(send(calls.get_project()))

    async def problem_kinds(self) -> Rows:
        return await self._carrier.run(send(calls.list_problem_kinds()))

    async def close(self) -> None:
        await self._carrier.close()

    def __repr__(self) -> str:
        return f"<AsyncClient of {self.url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()
