"""A program as one zip file: what it says of itself, where its hyperparameters start, and its functions. No JAX.

The same program gives the same bytes, and so the same SHA-256: entries are sorted, and have no dates.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from typing import NamedTuple

import numpy as np

from core.programs.entries import (
    HYPER,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    function_entry,
    opened,
    refusal,
)
from core.programs.manifest import Manifest, parsed
from core.programs.signatures import signatures

_NO_DATE = (1980, 1, 1, 0, 0, 0)
_PLAIN_FILE = 0o100644 << 16


class Archive(NamedTuple):
    """The parts of a program, whose functions nobody has looked at yet."""

    manifest: Manifest
    hyper: dict[str, np.ndarray]  # where they start, finite
    functions: dict[str, bytes]  # as `Exported.serialize` wrote them
    sha256: str


def write(manifest: Manifest, hyper: dict[str, np.ndarray], functions: dict[str, bytes]) -> bytes:
    """The archive's bytes."""
    entries = {
        MANIFEST: manifest.model_dump_json().encode(),
        HYPER: b"".join(_little(leaf.dtype, hyper[leaf.name]) for leaf in manifest.hyper),
        **{function_entry(name): content for name, content in functions.items()},
    }
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in sorted(entries.items()):
                info = zipfile.ZipInfo(name, _NO_DATE)
                info.compress_type, info.external_attr, info.create_system = zipfile.ZIP_DEFLATED, _PLAIN_FILE, 3
                archive.writestr(info, content)
        return file.getvalue()


def read(content: bytes) -> Archive:
    """The parts of an archive.

    Raises:
        InvalidProgram: damaged, too large, or without what its manifest names.
    """
    with opened(io.BytesIO(content)) as entries:
        manifest = parsed(entries.read(MANIFEST, MAX_MANIFEST_BYTES))
        wanted = set(signatures(manifest))
        if (there := entries.functions()) != wanted:
            missing, more = ", ".join(sorted(wanted - there)), ", ".join(sorted(there - wanted))
            raise refusal(f"functions: misses {missing or 'none'} and has besides {more or 'none'}")
        return Archive(
            manifest,
            _hyper(manifest, entries.read(HYPER)),
            {name: entries.read(function_entry(name)) for name in sorted(wanted)},
            hashlib.sha256(content).hexdigest(),
        )


def _hyper(manifest: Manifest, content: bytes) -> dict[str, np.ndarray]:
    if len(content) != (wanted := sum(leaf.nbytes for leaf in manifest.hyper)):
        raise refusal(f"{HYPER}: has {len(content)} bytes, and the hyperparameters of the manifest {wanted}")
    found, start = {}, 0
    for leaf in manifest.hyper:
        little = np.dtype(leaf.dtype).newbyteorder("<")
        values = np.frombuffer(content, little, leaf.size, start).reshape(leaf.shape)
        found[leaf.name] = values.astype(leaf.dtype)
        if not np.isfinite(values).all():
            raise refusal(f"{HYPER}: {leaf.name} holds NaN or an infinity, where it starts")
        start += leaf.nbytes
    return found


def _little(dtype: str, values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<")).tobytes()
