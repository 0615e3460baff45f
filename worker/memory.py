"""Memory: what this process holds, what is left for it, and whether the kernel has killed for want of it.

What confines a process is its machine, or memory cgroups of version 1 or 2. Elsewhere than on Linux only the machine
is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_KERNEL_COUNTERS = Path("/proc/vmstat")
_ACCOUNTS = (  # limit and usage in bytes, and the part of the usage that the kernel drops first
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def held() -> int:
    """Bytes that are this process's alone. Pages of files that it reads by a map can be dropped, and do not count."""
    info = psutil.Process().memory_info()
    return int(info.rss - getattr(info, "shared", 0))


def free() -> int:
    """Bytes that can still be taken before the machine or a cgroup has none left."""
    return max(0, min([int(psutil.virtual_memory().available), *_free_in_cgroups()]))


def oom_kills() -> int | None:
    """Processes of this cgroup, or else of the machine, that the kernel has killed for want of memory."""
    for folder in _folders()[:1]:
        for file in ("memory.events", "memory.oom_control"):
            if (count := _counters(folder / file).get("oom_kill")) is not None:
                return count
    return _counters(_KERNEL_COUNTERS).get("oom_kill")


def _free_in_cgroups() -> Iterator[int]:
    for folder in _folders():
        for limit_in, usage_in, droppable in _ACCOUNTS:
            limit, usage = _number(folder / limit_in), _number(folder / usage_in)
            if limit is not None and usage is not None:
                yield limit - usage + _counters(folder / "memory.stat").get(droppable, 0)


def _folders() -> list[Path]:
    """Of this process's memory cgroup and those that it lies in, innermost first."""
    for line in _text(_MEMBERSHIP).splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            base = _CGROUPS / "memory"
        elif not controllers and (_CGROUPS / "cgroup.controllers").exists():
            base = _CGROUPS
        else:
            continue
        folder = base / path.lstrip("/")
        if not folder.is_dir():  # in a container the path is the host's, and the container's own cgroup is mounted
            return [base]
        return [folder, *(parent for parent in folder.parents if parent.is_relative_to(base))]
    return []


def _number(file: Path) -> int | None:
    """None where there is no such file, or no limit."""
    text = _text(file).strip()
    return int(text) if text.isdigit() else None


def _counters(file: Path) -> dict[str, int]:
    pairs = (line.split() for line in _text(file).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
