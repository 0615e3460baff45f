"""What a process that runs jobs, or foretells them, must settle before JAX is imported."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"  # a resumed job must give the same bits; no effect on CPUs
_WORTH_KEEPING = (
    "0.2"  # seconds of compiling: a hypergradient is a dozen programs, few of which take JAX's whole one
)


def prepare(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set 64-bit arithmetic, deterministic kernels and a compilation cache that only this user can write."""
    environ["JAX_ENABLE_X64"] = "1"
    flags = environ.get("XLA_FLAGS", "")
    if "--xla_gpu_deterministic_ops" not in flags:
        environ["XLA_FLAGS"] = f"{flags} {_DETERMINISTIC}".strip()
    if "JAX_COMPILATION_CACHE_DIR" not in environ and (folder := _private_cache(environ)):
        environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", _WORTH_KEEPING)


def _private_cache(environ: MutableMapping[str, str]) -> Path | None:
    """A folder of this user alone, as JAX runs what it finds there; None where there can be none."""
    try:
        base = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "retrograd" / "jax"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError):
        return None
    return folder if status.st_uid == os.geteuid() and not status.st_mode & 0o022 else None
