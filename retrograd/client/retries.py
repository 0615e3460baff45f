"""When a request is sent again, and when that is given up."""

from __future__ import annotations

import random
import time
from typing import Any

import httpx

from retrograd.client.call import Call
from retrograd.client.errors import ApiError, ServerUnreachable, refusal, unreachable

ATTEMPTS = 4
PATIENT = 8
"""Attempts, over 25 seconds, of what goes on for long: the server may be starting anew."""

_FIRST_PAUSE_SECONDS = 0.2  # then twice as long, and so on
_LONG_SECONDS = 60.0
_OBEDIENT_SECONDS = 120.0  # in which all waits that the server asks for must end
_QUOTA = "quota_exceeded"
_IN_BETWEEN = (httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT)
_NEVER_LEFT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Retries:
    """Of one call. Says how long to pause before it is sent again, or raises what it came to."""

    def __init__(self, call: Call[Any], attempts: int = ATTEMPTS) -> None:
        self._call, self._attempts = call, attempts
        self.forget()

    def forget(self) -> None:
        """Begin anew: the exchange has come further."""
        self._losses, self._waited = 0, 0.0

    def lost(self, error: httpx.TransportError) -> float:
        """Seconds to pause after a connection that failed.

        A lost answer may have been a success; so only what is repeatable is sent again, and what never left. Minutes
        without an answer, as plans and uploads may take, are not waited for a second time.

        Raises:
            ServerUnreachable: that was the last attempt, or the only one that may be.
            TimeoutError: it is too late for another.
        """
        self._losses += 1
        may_repeat = self._call.repeatable or isinstance(error, _NEVER_LEFT)
        was_patient = isinstance(error, httpx.ReadTimeout) and self._patient
        return self._once_more(unreachable(error), may_repeat=may_repeat and not was_patient)

    def refused(self, answer: httpx.Response) -> float | None:
        """Seconds to pause after the answer of a server that wants to be asked again later; None if it is a good one.

        429 says that nothing was done. 503 need not: after it only what is repeatable is sent again. A quota is for the
        caller to wait for: a place in it may come free in an hour, or never. What a proxy says of a server that it does
        not reach names no time, and is a loss like others.

        Raises:
            ApiError: the server says no, or wants to be left alone for too long.
            TimeoutError: it is too late to ask again.
        """
        if (error := refusal(answer)) is None:
            return None
        if error.status in _IN_BETWEEN and "Retry-After" not in answer.headers:
            self._losses += 1
            was_patient = error.status == httpx.codes.GATEWAY_TIMEOUT and self._patient
            return self._once_more(error, may_repeat=self._call.repeatable and not was_patient)
        may_repeat = error.status == httpx.codes.TOO_MANY_REQUESTS or (
            error.status == httpx.codes.SERVICE_UNAVAILABLE and self._call.repeatable
        )
        if error.retry_after is None or not may_repeat or error.code == _QUOTA:
            raise error
        seconds = self._in_time(_spread(max(error.retry_after, _FIRST_PAUSE_SECONDS)), error)
        self._waited += seconds
        if self._waited > _OBEDIENT_SECONDS:
            raise error
        return seconds

    @property
    def _patient(self) -> bool:
        return (self._call.seconds or 0) > _LONG_SECONDS

    def _once_more(self, error: ApiError | ServerUnreachable, *, may_repeat: bool) -> float:
        """Seconds to pause after a loss; raises the error where it was the last."""
        if not may_repeat:
            raise error
        seconds = self._in_time(self.pause(self._losses), error)
        if self._losses >= self._attempts:
            raise error
        return seconds

    def _in_time(self, seconds: float, error: Exception) -> float:
        """As many of the seconds as there are before the call's deadline."""
        left = self._call.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(str(error)) from error
        return min(seconds, left)

    @staticmethod
    def pause(losses: int) -> float:
        """Seconds after so many losses in a row."""
        return _spread(_FIRST_PAUSE_SECONDS * 2 ** (min(losses, PATIENT - 1) - 1))


def _spread(seconds: float) -> float:
    """A little more: clients that were turned away together do not come back together."""
    return seconds * random.uniform(1, 1.25)  # noqa: S311 - no secret
