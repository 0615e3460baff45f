"""All certificates of a job as one, as good as the worst of them.

Kept in the job's row and carried on in the transaction of every meta-iteration, so that reading a job costs the same
after ten thousand of them as after one, and cannot disagree with them.
"""

from __future__ import annotations

from typing import Any

_LARGEST = ("stored_bits_per_param_step", "bound_bits_per_param_step")
_NAMES = ("engine", "mode")


def joined(total: dict[str, Any] | None, one: dict[str, Any]) -> dict[str, Any] | None:
    """`total` with the certificate of one more meta-iteration; None before there is any.

    One without an engine is no certificate: there was no gradient to certify.
    """
    if not one.get("engine"):
        return total
    before = total or {"exact": True, "iterations": 0, "mismatched_bits": 0}
    return {
        "exact": before["exact"] and one.get("exact") is True,
        "iterations": before["iterations"] + 1,
        "mismatched_bits": _sum(before["mismatched_bits"], one.get("mismatched_bits")),
        **{name: _largest(before.get(name), one.get(name)) for name in _LARGEST},
        **{name: _both(before.get(name), one.get(name)) for name in _NAMES},
    }


def _sum(total: int | None, one: int | None) -> int | None:
    """An engine that compares nothing has no count; one such meta-iteration leaves the total unknown."""
    return None if total is None or one is None else total + one


def _largest(total: float | None, one: float | None) -> float | None:
    return max((found for found in (total, one) if found is not None), default=None)


def _both(total: str | None, one: str | None) -> str | None:
    names = {name for found in (total, one) if found for name in found.split(", ")}
    return ", ".join(sorted(names)) or None
