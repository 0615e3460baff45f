"""Jobs, for whoever awaits answers: `jobs` in the same order, whose docstrings hold here as well."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from retrograd.client import calls, exchanges
from retrograd.client.call import Ids, Json, Rows, Seen
from retrograd.client.carriers import AsyncCarrier
from retrograd.client.exchanges import send
from retrograd.client.lists import JobList
from retrograd.client.progress import Progress
from retrograd.client.seen import SeenJob

if TYPE_CHECKING:
    from core.spec import JobSpec
    from retrograd.client.curves import Curves
    from retrograd.client.hyperparameters import Hyperparameters


class AsyncJob(SeenJob):
    """`Job`, whose methods are awaited; `events` is an asynchronous iterator."""

    def __init__(self, carrier: AsyncCarrier, seen: Seen) -> None:
        super().__init__(seen)
        self._carrier = carrier

    async def refresh(self) -> Self:
        return await self._carrier.run(exchanges.look(self))

    async def wait(self, timeout: float | None = None, *, progress: Progress = None) -> Self:
        return await self._carrier.run(exchanges.wait(self, timeout, progress))

    async def cancel(self) -> Self:
        return await self._carrier.run(exchanges.change(self, "cancel"))

    async def pause(self) -> Self:
        return await self._carrier.run(exchanges.change(self, "pause"))

    async def resume(self) -> Self:
        return await self._carrier.run(exchanges.change(self, "resume"))

    async def retry(self) -> Self:
        return await self._carrier.run(exchanges.change(self, "retry"))

    async def delete(self) -> None:
        await self._carrier.run(send(calls.delete_job(self.id)))

    def events(self, after: int = 0) -> AsyncIterator[Json]:
        return self._carrier.iterate(exchanges.events(self.id, after))

    async def past_events(self) -> Rows:
        return await self._carrier.run(exchanges.rows(calls.list_events(self.id)))

    async def iterations(self, after: int | None = None) -> Rows:
        return await self._carrier.run(exchanges.rows(calls.list_iterations(self.id, after)))

    async def curves(self) -> Curves:
        return await self._carrier.run(send(calls.curves(self.id)))

    async def hyperparameters(self, iteration: str | int = "best") -> Hyperparameters:
        return await self._carrier.run(send(calls.hyperparameters(self.id, iteration)))

    async def download(self, path: Path | str, iteration: str | int = "best", format: str | None = None) -> Path:
        return await self._carrier.run(exchanges.download(self.id, path, iteration, format))

    async def download_curves(self, path: Path | str, format: str | None = None) -> Path:
        return await self._carrier.run(exchanges.download_curves(self.id, path, format))

    async def trials(self) -> Rows:
        return await self._carrier.run(send(calls.list_trials(self.id)))

    async def figures(self) -> Rows:
        return await self._carrier.run(send(calls.list_figures(self.id)))

    async def figure(self, name: str, format: str = "png") -> bytes:
        return await self._carrier.run(send(calls.draw_figure(self.id, name, format)))

    async def deliveries(self) -> Rows:
        return await self._carrier.run(send(calls.list_deliveries(self.id)))

    async def redeliver(self, delivery_id: str) -> Json:
        return await self._carrier.run(send(calls.redeliver(self.id, delivery_id)))


class AsyncJobs:
    """`Jobs`, whose methods are awaited; `all` is an asynchronous iterator."""

    def __init__(self, carrier: AsyncCarrier) -> None:
        self._carrier = carrier

    async def create(
        self,
        spec: JobSpec | Mapping[str, Any] | None = None,
        *,
        preset: str | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncJob:
        return AsyncJob(
            self._carrier,
            await self._carrier.run(exchanges.create_job(calls.create_job(spec, preset, idempotency_key), preset)),
        )

    async def plan(self, spec: JobSpec | Mapping[str, Any]) -> Json:
        return await self._carrier.run(send(calls.plan(spec)))

    async def get(self, job_id: str) -> AsyncJob:
        return AsyncJob(self._carrier, await self._carrier.run(exchanges.get_job(job_id)))

    async def list(
        self, limit: int = 20, *, state: str | None = None, search: str | None = None, preset: str | None = None
    ) -> JobList[AsyncJob]:
        call = calls.list_jobs(limit, state, search, preset)
        return JobList(await self._carrier.run(exchanges.page(call, self._listed)))

    def all(
        self, *, state: str | None = None, search: str | None = None, preset: str | None = None
    ) -> AsyncIterator[AsyncJob]:
        call = calls.list_jobs(state=state, search=search, preset=preset)
        return self._carrier.iterate(exchanges.each(call, self._listed))

    async def cancel_all(self, *, state: str | None = None, preset: str | None = None) -> Ids:
        return await self._carrier.run(exchanges.cancel_jobs(state, preset))

    def _listed(self, row: Json) -> AsyncJob:
        return AsyncJob(self._carrier, Seen.read(row))
