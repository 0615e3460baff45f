"""What a project has beside jobs, and what jobs may be about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retrograd.client import calls, exchanges
from retrograd.client.call import Json, Rows
from retrograd.client.carriers import Carrier
from retrograd.client.exchanges import send
from retrograd.client.uploads import Data


class Datasets:
    """Uploaded data; a job names them by `{"id": …}`."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier

    def upload(self, data: Data, name: str, columns: Mapping[str, Any] | None = None) -> Json:
        """Send data to learn from.

        Args:
            data: an npz file; two IDX files, images and labels; arrays by name, `images` or `inputs` and `labels` or
                `targets`; or a CSV or Parquet file.
            name: for lists.
            columns: of a CSV or Parquet file, such as `{"target": "price", "categorical": ["town"]}`.
        """
        return self._carrier.run(exchanges.upload_dataset(data, name, columns))

    def get(self, dataset_id: str) -> Json:
        """Shapes, types, classes or targets, bytes and digest; of tables their columns and first rows."""
        return self._carrier.run(send(calls.get_dataset(dataset_id)))

    def list(self, limit: int = 20) -> Rows:
        """The newest ones, at most 100."""
        return self._carrier.run(send(calls.list_datasets(limit)))

    def delete(self, dataset_id: str) -> None:
        """Delete data that no job still learns from."""
        self._carrier.run(send(calls.delete_dataset(dataset_id)))


class Programs:
    """Problems of one's own, exported by JAX; a job names one by its `id`."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier

    def upload(self, program: Path | str | bytes, name: str) -> Json:
        """Send what `export_problem` has made, to be checked and kept.

        Args:
            program: its file, or its bytes.
            name: for lists.
        """
        return self._carrier.run(exchanges.upload_program(program, name))

    def get(self, program_id: str) -> Json:
        """What its functions take and return, and what was found when it was checked."""
        return self._carrier.run(send(calls.get_program(program_id)))

    def list(self, limit: int = 20) -> Rows:
        """The newest ones, at most 100."""
        return self._carrier.run(send(calls.list_programs(limit)))

    def delete(self, program_id: str) -> None:
        """Delete a program that no job still runs."""
        self._carrier.run(send(calls.delete_program(program_id)))


class Presets:
    """Jobs that are ready to be queued."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier

    def names(self) -> list[str]:
        """Of all of them, for `jobs.create(preset=…)`."""
        return self._carrier.run(exchanges.preset_names())

    def get(self, name: str) -> Json:
        """The specification, to be changed and given to `jobs.create`."""
        return self._carrier.run(exchanges.get_preset(name))


class Keys:
    """API keys of the project. All about them needs the scope admin."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier

    def list(self) -> Rows:
        """What is known of each, but for itself."""
        return self._carrier.run(send(calls.list_keys()))

    def create(self, name: str, scopes: Sequence[str]) -> Json:
        """Make a key; its `key` is shown this once."""
        return self._carrier.run(send(calls.create_key(name, scopes)))

    def revoke(self, key_id: str) -> None:
        """Have a key refused from now on."""
        self._carrier.run(send(calls.revoke_key(key_id)))
