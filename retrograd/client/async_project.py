"""What a project has beside jobs, for whoever awaits answers: `project` in the same order, whose docstrings hold here
as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retrograd.client import calls, exchanges
from retrograd.client.call import Json, Rows
from retrograd.client.carriers import AsyncCarrier
from retrograd.client.exchanges import send
from retrograd.client.uploads import Data


class AsyncDatasets:
    """`Datasets`, whose methods are awaited."""

    def __init__(self, carrier: AsyncCarrier) -> None:
        self._carrier = carrier

    async def upload(self, data: Data, name: str, columns: Mapping[str, Any] | None = None) -> Json:
        return await self._carrier.run(exchanges.upload_dataset(data, name, columns))

    async def get(self, dataset_id: str) -> Json:
        return await self._carrier.run(send(calls.get_dataset(dataset_id)))

    async def list(self, limit: int = 20) -> Rows:
        return await self._carrier.run(send(calls.list_datasets(limit)))

    async def delete(self, dataset_id: str) -> None:
        await self._carrier.run(send(calls.delete_dataset(dataset_id)))


class AsyncPrograms:
    """`Programs`, whose methods are awaited."""

    def __init__(self, carrier: AsyncCarrier) -> None:
        self._carrier = carrier

    async def upload(self, program: Path | str | bytes, name: str) -> Json:
        return await self._carrier.run(exchanges.upload_program(program, name))

    async def get(self, program_id: str) -> Json:
        return await self._carrier.run(send(calls.get_program(program_id)))

    async def list(self, limit: int = 20) -> Rows:
        return await self._carrier.run(send(calls.list_programs(limit)))

    async def delete(self, program_id: str) -> None:
        await self._carrier.run(send(calls.delete_program(program_id)))


class AsyncPresets:
    """`Presets`, whose methods are awaited."""

    def __init__(self, carrier: AsyncCarrier) -> None:
        self._carrier = carrier

    async def names(self) -> list[str]:
        return await self._carrier.run(exchanges.preset_names())

    async def get(self, name: str) -> Json:
        return await self._carrier.run(exchanges.get_preset(name))


class AsyncKeys:
    """`Keys`, whose methods are awaited."""

    def __init__(self, carrier: AsyncCarrier) -> None:
        self._carrier = carrier

    async def list(self) -> Rows:
        return await self._carrier.run(send(calls.list_keys()))

    async def create(self, name: str, scopes: Sequence[str]) -> Json:
        return await self._carrier.run(send(calls.create_key(name, scopes)))

    async def revoke(self, key_id: str) -> None:
        await self._carrier.run(send(calls.revoke_key(key_id)))
