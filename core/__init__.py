"""The library. Public names are imported lazily: `import core` loads no JAX."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Asked": "core.plugins",
    "Certificate": "core.engines",
    "Hypergradient": "core.engines",
    "Problem": "core.engines",
    "ProblemKind": "core.plugins",
    "adam": "core.engines",
    "adamw": "core.engines",
    "automatic": "core.engines",
    "checkpointed": "core.engines",
    "export_problem": "core.programs.exporting",
    "forward_mode": "core.engines",
    "heavy_ball": "core.engines",
    "hybrid": "core.engines",
    "hypergradient": "core.engines",
    "implicit": "core.engines",
    "meta_optimize": "core.meta_optimization",
    "nesterov": "core.engines",
    "plan": "core.engines",
    "problem_of": "core.programs.running",
    "reversible": "core.engines",
    "rmsprop": "core.engines",
    "sgd": "core.engines",
    "truncated": "core.engines",
    "unrolled": "core.engines",
    "JobSpec": "core.spec",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'core' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
