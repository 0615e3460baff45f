"""What a run through checkpoints keeps in a folder, so that it goes on there when its process has died.

Kept are the states that stretches begin with and, on the way back, the adjoint where one ends. A file is written whole
under another name and then renamed, so that what it replaces stays until then. What cannot be kept costs time only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.engines.certificate import Certificate
from core.engines.following import UnitChanges
from core.reversal.information_buffer import Place
from core.reversal.unit_changes import UnitChange

_SUFFIX = ".npz"
_FACTS = "facts"
_LEFT_TO_OTHERS = 128 << 20  # bytes of a disk


class Record(NamedTuple):
    """What stands in one file."""

    arrays: dict[str, list[np.ndarray]]
    facts: dict[str, Any]  # JSON values
    changes: UnitChanges  # of units, as they were known by then


class Kept:
    """The folder of one run; without one nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def save(self, name: str, changes: UnitChanges, arrays: Mapping[str, list[Any]], **facts: Any) -> None:
        """Keep arrays by name, in place of what had this name."""
        if self._folder is None:
            return
        members = {
            f"{group} {number}": np.asarray(one)
            for group, found in arrays.items()
            for number, one in enumerate(found)
        }
        listed, of_changes = _listed(changes)
        members |= of_changes
        members[_FACTS] = np.frombuffer(json.dumps({"given": facts, "changes": listed}).encode(), np.uint8)
        whole, partial = self._folder / (name + _SUFFIX), self._folder / (name + ".part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            needed = sum(member.nbytes for member in members.values())
            if needed > shutil.disk_usage(self._folder).free - _LEFT_TO_OTHERS:
                return
            with partial.open("wb") as file:
                np.savez(file, allow_pickle=False, **members)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(whole)
        except OSError:
            partial.unlink(missing_ok=True)

    def load(self, name: str) -> Record | None:
        """What was kept under this name; None where there is nothing, or nothing whole."""
        if self._folder is None:
            return None
        try:
            # opened here: NumPy leaves a damaged file open
            with (self._folder / (name + _SUFFIX)).open("rb") as file, np.load(file, allow_pickle=False) as found:
                members = dict(found)
            facts = json.loads(members.pop(_FACTS).tobytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        arrays: dict[str, list[np.ndarray]] = {}
        for member, values in members.items():  # in the order in which they were written
            arrays.setdefault(member.rpartition(" ")[0], []).append(values)
        return Record(arrays, facts["given"], _as_changes(facts["changes"], members))

    def latest_changes(self) -> UnitChanges:
        """Of units, as far as they were known."""
        records = [self.load(file.stem) for file in self._files()]
        known = [record.changes for record in records if record is not None]
        return max(known, key=lambda changes: changes.looked, default=UnitChanges())

    def clear(self) -> None:
        """Forget everything."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _files(self) -> Iterator[Path]:
        return iter(()) if self._folder is None else self._folder.glob("*" + _SUFFIX)


def digest(*decisive: Any) -> str:
    """Of pytrees of arrays and plain values, and of the versions and the device that decide a run's bits as well."""
    found = hashlib.sha256()
    proof = Certificate(False, "", "", None, None, None)
    for leaf in jax.tree.leaves((decisive, proof.versions, proof.device)):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        values = np.asarray(leaf) if isinstance(leaf, jax.Array | np.ndarray) else repr(leaf)
        described = values if isinstance(values, str) else f"{values.dtype.name}{values.shape}"
        found.update(described.encode() + b"\0")
        if not isinstance(values, str):
            found.update(np.ascontiguousarray(values).tobytes())
    found.update(str(jax.tree.structure(decisive)).encode())
    return found.hexdigest()[:32]


def _listed(changes: UnitChanges) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    listed: dict[str, Any] = {"looked": changes.looked}
    arrays: dict[str, np.ndarray] = {}
    for name, steps in {"rooms": changes.rooms, "refinements": changes.refinements}.items():
        flat = [(step, place, bits) for step, change in steps.items() for place, bits in change.items()]
        listed[name] = [[step, place.field, place.group] for step, place, _ in flat]
        arrays |= {f"{name} {number}": bits for number, (_, _, bits) in enumerate(flat)}
    return listed, arrays


def _as_changes(listed: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> UnitChanges:
    found: dict[str, dict[int, UnitChange]] = {"rooms": {}, "refinements": {}}
    for name, steps in found.items():
        for number, (step, field, group) in enumerate(listed[name]):
            steps.setdefault(step, {})[Place(field, group)] = arrays[f"{name} {number}"]
    return UnitChanges(found["rooms"], found["refinements"], listed["looked"])
