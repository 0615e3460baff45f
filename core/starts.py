"""Where hyperparameters start, as natural values. NumPy only, and hashable: equal starts are one program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

_SEED = 0  # one draw for ever: a specification decides every bit


@dataclass(frozen=True)
class Constant:
    """The same everywhere."""

    value: float

    def values(self, shape: tuple[int, ...]) -> np.ndarray:
        """Float64 of this shape."""
        return np.full(shape, self.value)

    def described(self) -> Any:
        """As JSON."""
        return self.value


@dataclass(frozen=True)
class Noise:
    """Normally distributed around a mean."""

    mean: float
    scale: float

    def values(self, shape: tuple[int, ...]) -> np.ndarray:
        """Float64 of this shape, the same draw every time."""
        return self.mean + self.scale * np.random.Generator(np.random.PCG64(_SEED)).standard_normal(shape)

    def described(self) -> Any:
        """As JSON."""
        return {"mean": self.mean, "standard_deviation": self.scale}


@dataclass(frozen=True)
class Listed:
    """One value for each place of the only axis."""

    each: tuple[float, ...]

    def values(self, shape: tuple[int, ...]) -> np.ndarray:
        """Float64 of this shape."""
        return np.array(self.each).reshape(shape)

    def described(self) -> Any:
        """As JSON."""
        return list(self.each)


@dataclass(frozen=True)
class Sharing:
    """Square matrices between the identity (share 0, tasks apart) and the mean of all (share 1), one for each layer."""

    shares: tuple[float, ...]

    def values(self, shape: tuple[int, ...]) -> np.ndarray:
        """Float64 of shape [layers, tasks, tasks]."""
        layers, tasks, _ = shape
        share = np.broadcast_to(np.array(self.shares), layers)[:, None, None]
        return (1 - share) * np.eye(tasks) + share / tasks

    def described(self) -> Any:
        """As JSON."""
        return {"sharing": list(self.shares)}


@dataclass(frozen=True)
class Exactly:
    """These very numbers."""

    shape: tuple[int, ...]
    content: bytes  # little-endian float64

    @classmethod
    def of(cls, values: Any) -> Exactly:
        """From numbers of any shape."""
        array = np.ascontiguousarray(values, "<f8")
        return cls(np.shape(values), array.tobytes())

    def values(self, shape: tuple[int, ...]) -> np.ndarray:
        """Float64 of this shape."""
        return np.frombuffer(self.content, "<f8").reshape(shape).astype(np.float64)

    def described(self) -> Any:
        """As JSON."""
        return self.values(self.shape).tolist()


@dataclass(frozen=True)
class InProblem:
    """Where the user's own problem has it, which is known to whoever runs that."""

    how: str  # exported or installed

    def values(self, shape: tuple[int, ...]) -> np.ndarray:
        """Not known here."""
        raise TypeError("only the problem knows where its hyperparameters start")

    def described(self) -> Any:
        """As JSON."""
        return {"as": self.how}


Start: TypeAlias = Constant | Noise | Listed | Sharing | Exactly | InProblem
