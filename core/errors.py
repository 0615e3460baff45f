"""Domain errors. Each says what is wrong, which value, and the remedy; none knows of HTTP or Celery."""

from __future__ import annotations

import math
from typing import Any, ClassVar


class CoreError(Exception):
    """Base of every error that Retrograd raises on purpose. `code` is stable; programs may match on it."""

    code: ClassVar[str] = "core_error"

    def details(self) -> dict[str, Any]:
        """Machine-readable facts beside the message, as JSON values."""
        return {}


class InvalidProblem(CoreError):  # noqa: N818 - named for what happened
    """A problem, schedule or argument that cannot be trained as given."""

    code = "invalid_problem"


class InvalidOptimizer(CoreError):  # noqa: N818
    """An optimizer whose step cannot be undone as it is written."""

    code = "invalid_optimizer"


class X64Disabled(CoreError):  # noqa: N818
    """JAX runs in 32-bit mode, where the exact integer arithmetic of `core.reversal` cannot exist."""

    code = "x64_disabled"

    def __init__(self) -> None:
        super().__init__(
            "reversible arithmetic needs 64-bit floats; call jax.config.update('jax_enable_x64', True) before "
            "the first array is made, or set JAX_ENABLE_X64=1"
        )


class FixedPointOverflow(CoreError):  # noqa: N818
    """Training diverged: a state left the fixed-point range (or became NaN)."""

    code = "diverged"

    def __init__(self, *, step: int, group: str, largest: float, limit: float, field: str = "position") -> None:
        self.step, self.group, self.largest, self.limit, self.field = step, group, largest, limit, field
        reached = f"{largest:.3g}" if math.isfinite(largest) else "a value that is not finite"
        if field == "position":
            who, remedy = group, "lower the step size or its initial value"
        else:
            who = f"the {field.replace('_', ' ')} that the optimizer keeps of {group}"
            remedy = (
                "its gradients grew too large: lower the step size or its initial value, or scale inner_loss down"
            )
        super().__init__(
            f"training diverged: {who} reached {reached} at step {step}, beyond the fixed-point range "
            f"±{limit:.4g}; {remedy}"
        )

    def details(self) -> dict[str, Any]:
        """Step (0-based), group, field of the optimizer's state and magnitude at which training left the range."""
        largest = self.largest if math.isfinite(self.largest) else None
        return {"step": self.step, "group": self.group, "field": self.field, "largest": largest}


class NotFinite(CoreError):  # noqa: N818
    """Training stayed in range, but the outer loss or its gradient did not."""

    code = "not_finite"

    def __init__(self, *, value: float, norm: float) -> None:
        self.value, self.norm = value, norm
        super().__init__(
            f"the outer loss is {value:.3g} and the norm of its hypergradient {norm:.3g}; look for a log or root of 0 "
            "in the losses, lower the step size or its initial value, or meta.step_size, or compute in float64"
        )


class UncertifiedGradient(CoreError):  # noqa: N818
    """Running backwards did not return to the start, in any mode of the engine."""

    code = "uncertified"


class SolverFailed(CoreError):  # noqa: N818
    """The implicit engine has no minimum to differentiate, or its linear system was not solved."""

    code = "solver_failed"


class OutOfDisk(CoreError):  # noqa: N818
    """The folder that information buffers are spilled to has no room left."""

    code = "out_of_disk"

    def __init__(self, folder: Any, needed: int, free: int) -> None:
        self.folder, self.needed, self.free = str(folder), needed, free
        super().__init__(
            f"{folder} has no room for {needed} bytes more ({free} free); free some, spill to host memory or another "
            "disk, or bound the buffer with the hybrid engine"
        )

    def details(self) -> dict[str, Any]:
        """Folder, and bytes that were needed and free."""
        return {"folder": self.folder, "needed": self.needed, "free": self.free}


class OutOfMemory(CoreError):  # noqa: N818
    """A job took more memory than there is, or than it may."""

    code = "out_of_memory"

    def __init__(self, found: str, **numbers: int) -> None:
        self._numbers = numbers
        super().__init__(
            f"{found}; make the model, the batch or the number of steps smaller, or have the job run by a worker with "
            "more memory (RETROGRAD_JOB_MEMORY_BYTES bounds a job's share of it)"
        )

    def details(self) -> dict[str, Any]:
        """Bytes, where they are known."""
        return dict(self._numbers)


class OutOfTime(CoreError):  # noqa: N818
    """A job took longer than it may."""

    code = "out_of_time"

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        super().__init__(
            f"the job took longer than the {seconds:g} s that it may (RETROGRAD_JOB_SECONDS); what it learned is kept. "
            "Ask for fewer meta-iterations or steps, or raise the limit and retry it: it goes on where it stopped"
        )

    def details(self) -> dict[str, Any]:
        """The limit in seconds."""
        return {"limit": self._seconds}


class Stalled(CoreError):  # noqa: N818
    """A job's computation stands still, though its worker lives."""

    code = "stalled"

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        super().__init__(
            f"the computation gave no sign of life for {seconds:g} s, time and again (RETROGRAD_STALLED_SECONDS); "
            "retry the job, or make it smaller if one piece of it may take that long"
        )

    def details(self) -> dict[str, Any]:
        """How long it may stand still, in seconds."""
        return {"limit": self._seconds}


class InternalError(CoreError):
    """What nobody foresaw: an error of ours, or of the machine."""

    code = "internal_error"


class UnknownDataset(CoreError):  # noqa: N818
    """No data set of this name is installed."""

    code = "unknown_dataset"

    def __init__(self, name: str, known: list[str], remedy: str = "") -> None:
        self.name = name
        super().__init__(f"no data set {name!r}; known: {', '.join(known) or 'none'}{remedy}")


class InvalidDataset(CoreError):  # noqa: N818
    """A data file that is damaged, inconsistent or too large."""

    code = "invalid_dataset"


class DatasetTooLarge(InvalidDataset):
    """Data that hold, or inflate to, more than is taken."""

    code = "dataset_too_large"


class UnsupportedDataset(CoreError):  # noqa: N818
    """Data of a kind that is not read here."""

    code = "unsupported_media_type"


class InvalidProgram(CoreError):  # noqa: N818
    """An exported program that is damaged, that lies about itself, or that may not or cannot be run."""

    code = "invalid_program"


class PluginFailed(CoreError):  # noqa: N818
    """A problem kind that a package brings is broken, or breaks on what it was given."""

    code = "plugin_failed"

    def __init__(self, kind: str, package: str, version: str, why: str) -> None:
        super().__init__(
            f"the problem kind {kind!r} of the package {package} {version} failed: {why}; tell whoever runs this server"
        )

    @classmethod
    def told(cls, message: str) -> PluginFailed:
        """The error of which another process has told."""
        error = cls.__new__(cls)
        Exception.__init__(error, message)
        return error


class StorageUnavailable(CoreError):  # noqa: N818
    """Uploaded data cannot be kept or fetched."""

    code = "storage_unavailable"


class DamagedBlob(CoreError):  # noqa: N818
    """Stored bytes that are no longer what they were, or not there."""

    code = "damaged_blob"

    def __init__(self, sha256: str, what: str) -> None:
        super().__init__(f"the stored bytes with SHA-256 {sha256} {what}; upload the data again")


class InvalidSpec(CoreError):  # noqa: N818
    """A job specification that cannot be run. `errors` lists (path of the field, what is wrong and the remedy)."""

    code = "invalid_spec"

    def __init__(self, *errors: tuple[tuple[str | int, ...], str]) -> None:
        self.errors = errors
        super().__init__("; ".join(f"{'.'.join(map(str, loc))}: {msg}" for loc, msg in errors))

    def details(self) -> dict[str, Any]:
        """The list of `{"loc", "msg"}` that problem+json answers carry."""
        return {"errors": [{"loc": list(loc), "msg": msg} for loc, msg in self.errors]}


class UnknownFigure(CoreError):  # noqa: N818 - named for what happened
    """No such figure of this job, or not yet."""

    code = "unknown_figure"

    def __init__(self, name: str, known: list[str]) -> None:
        known_now = ", ".join(known) if known else "none yet; they appear as the job learns"
        super().__init__(f"no figure {name!r} of this job; there are: {known_now}")


UNTRAINABLE = (FixedPointOverflow, NotFinite, InvalidProblem)
"""What some values of hyperparameters can make of a sound problem: a descent that steps too far meets them."""
