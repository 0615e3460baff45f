"""Jobs beside each other: what to call them, and where their specifications differ."""

from __future__ import annotations

import json
from typing import Any

from core.store.models import Job

_FIELDS, _SHOWN = 400, 200


def differences(found: list[Job]) -> list[tuple[str, list[str]]]:
    """Fields of the specifications, but for the name, that are not the same in all jobs, with their values."""
    flat = [_flat(job.spec) for job in found]
    names = list(dict.fromkeys(name for one in flat for name in one))
    rows = [(name, [one.get(name, "") for one in flat]) for name in names]
    differing = [row for row in rows if row[0] != "name" and len(set(row[1])) > 1][:_FIELDS]
    return [(name, [_cut(value) for value in values]) for name, values in differing]


def named_apart(found: list[Job]) -> list[str]:
    """Names of the jobs, with the beginning of the id where several have the same."""
    names = [one.name or one.preset or "unnamed" for one in found]
    return [
        name if names.count(name) == 1 else f"{name} {str(one.id)[:8]}"
        for name, one in zip(names, found, strict=True)
    ]


def _cut(value: str) -> str:
    return value if len(value) <= _SHOWN else f"{value[:_SHOWN]} … ({len(value)} characters)"


def _flat(value: Any, path: str = "") -> dict[str, str]:
    if isinstance(value, dict) and value:
        return {
            name: text
            for key, one in value.items()
            for name, text in _flat(one, f"{path}.{key}" if path else key).items()
        }
    if value is None:  # as if it had been left out
        return {}
    return {path: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}
