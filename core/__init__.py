"""The library. Public names are imported lazily: `import core` loads no JAX."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Certificate": "core.hypergradient",
    "Hypergradient": "core.hypergradient",
    "Problem": "core.hypergradient",
    "hypergradient": "core.hypergradient",
    "meta_optimize": "core.meta_optimization",
    "reversible": "core.hypergradient",
    "sgd": "core.hypergradient",
    "unrolled": "core.hypergradient",
    "JobSpec": "core.spec",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'core' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
