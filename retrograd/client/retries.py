"""When a request is sent again, and when that is given up."""

from __future__ import annotations

import random
from typing import Any

import httpx

from retrograd.client.call import Call
from retrograd.client.errors import refusal, unreachable

ATTEMPTS = 4
PATIENT = 8
"""Attempts, over 25 seconds, of what goes on for long: the server may be starting anew."""

_FIRST_PAUSE_SECONDS = 0.2  # then twice as long, and so on
_LONG_SECONDS = 60.0
_OBEDIENT_SECONDS = 120.0  # in which all waits that the server asks for must end
_QUOTA = "quota_exceeded"
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
        """
        self._losses += 1
        may_repeat = self._call.repeatable or isinstance(error, _NEVER_LEFT)
        was_patient = isinstance(error, httpx.ReadTimeout) and (self._call.seconds or 0) > _LONG_SECONDS
        if self._losses >= self._attempts or not may_repeat or was_patient:
            raise unreachable(error) from error
        return self.pause(self._losses)

    def refused(self, answer: httpx.Response) -> float | None:
        """Seconds to pause after the answer of a server that wants to be asked again later; None if it is a good one.

        429 says that nothing was done. 503 need not: after it only what is repeatable is sent again. A quota is for the
        caller to wait for: a place in it may come free in an hour, or never.

        Raises:
            ApiError: the server says no, or wants to be left alone for too long.
        """
        if (error := refusal(answer)) is None:
            return None
        may_repeat = error.status == httpx.codes.TOO_MANY_REQUESTS or (
            error.status == httpx.codes.SERVICE_UNAVAILABLE and self._call.repeatable
        )
        if error.retry_after is None or not may_repeat or error.code == _QUOTA:
            raise error
        seconds = _spread(max(error.retry_after, _FIRST_PAUSE_SECONDS))
        self._waited += seconds
        if self._waited > _OBEDIENT_SECONDS:
            raise error
        return seconds

    @staticmethod
    def pause(losses: int = 1) -> float:
        """Seconds after so many losses in a row."""
        return _spread(_FIRST_PAUSE_SECONDS * 2 ** (losses - 1))


def _spread(seconds: float) -> float:
    """A little more: clients that were turned away together do not come back together."""
    return seconds * random.uniform(1, 1.25)  # noqa: S311 - no secret
