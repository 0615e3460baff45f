"""What was proven about a hypergradient."""

from __future__ import annotations

import math
import platform
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from typing import Any

import jax


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "jax": jax.__version__, "jaxlib": version("jaxlib")}


def _device() -> str:
    device = jax.devices()[0]
    return f"{device.platform}: {device.device_kind}"


@dataclass(frozen=True)
class Certificate:
    """Evidence that training was run backward to exactly where it began.

    `exact` is true only when every recovered bit was compared and none differed, and the information buffers were
    empty again. An engine that proves nothing says so with `exact` False and `mismatched_bits` None.
    """

    exact: bool
    engine: str
    mode: str  # fused, isolated, or autodiff
    mismatched_bits: int | None  # over the whole state and its buffers, against the initial state
    stored_bits_per_param_step: float | None
    bound_bits_per_param_step: float | None  # mean of log2(1/γ); 53 where γ is 0
    mismatched_bits_by_field: dict[str, int] | None = None  # {"position": …, "velocity": …, "velocity buffer": …}
    unit_exponents: dict[str, list[int]] | None = None  # {field: log2 of the unit at the start, one a group}
    unit_changes: list[dict[str, Any]] | None = None  # {step, field, group, bits}, by 2**bits; the most of several
    runs: int = 1  # training runs that it stands for
    exact_for: str = ""  # what the engine's gradient is exact for, in words
    optimizer: str | None = None
    compute: str | None = None  # dtype of gradients, and the precision of their matrix products
    device: str = field(default_factory=_device)
    versions: dict[str, str] = field(default_factory=_versions)

    def as_dict(self) -> dict[str, Any]:
        """As JSON values; what is infinite becomes None."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def merged(certificates: list[Certificate]) -> Certificate:
    """One certificate for all runs of an average: as good as the worst of theirs. Runs that went together share one."""
    apart = list({id(one): one for one in certificates}.values())
    worst = max(
        apart, key=lambda one: (not one.exact, one.mismatched_bits or 0, one.stored_bits_per_param_step or 0)
    )
    return replace(worst, runs=sum(one.runs for one in apart))
