"""What exchanges with the server are made of.

An exchange is a generator: it yields steps, is sent what each has led to, and returns what the exchange was for. It
waits for nothing itself. `carriers` carries steps out: one by waiting, one by awaiting. So retries, pages, polls and
streams are written once, for both.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import httpx

from retrograd.client.call import Call

T = TypeVar("T")


@dataclass(frozen=True)
class Send:
    """Send a request. Leads to the whole answer, or has an `httpx.TransportError` thrown into the exchange, or an
    `httpx.DecodingError`.
    """

    call: Call[Any]


@dataclass(frozen=True)
class Open:
    """Send a request whose answer is read piece by piece, once what was open before is closed. Leads to `Opened`."""

    call: Call[Any]
    pieces: Literal["lines", "bytes"]


@dataclass(frozen=True)
class Opened:
    """An answer that has begun; in full, if it is an error."""

    answer: httpx.Response
    pieces: Any  # an iterator, or an asynchronous one


@dataclass(frozen=True)
class Next:
    """Read on. Leads to a piece of the answer, to None at its end, or to one of these errors."""

    opened: Opened


@dataclass(frozen=True)
class Pause:
    """Do nothing for a while."""

    seconds: float


@dataclass(frozen=True)
class Tell(Generic[T]):
    """Hand something over to whoever iterates."""

    item: T


Step: TypeAlias = Send | Open | Next | Pause
Steps: TypeAlias = Generator[Step, Any, T]
Telling: TypeAlias = Generator[Step | Tell[T], Any, None]


def told(steps: Steps[T]) -> Telling[T]:
    """The exchange that tells what `steps` returns."""
    yield Tell((yield from steps))


def resumed(resume: Callable[[Any], Step | Tell[T]], outcome: Any) -> Step | Tell[T] | None:
    """The next step, once the exchange was sent an outcome or had one thrown into it; None if it ends there."""
    try:
        return resume(outcome)
    except StopIteration:
        return None
