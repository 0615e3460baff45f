"""How often one may ask: moving windows, counted in the broker for all processes together.

Without the broker each process counts by itself, with the same limits, so that no request is refused or slow because of
an outage.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import threading
import time
from typing import Literal

import limits
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import MovingWindowRateLimiter
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from api.errors import RateLimited
from core.config import Settings
from core.store import keys

log = logging.getLogger(__name__)

Policy = Literal["reads", "writes", "strangers"]

_BROKER_SECONDS = 0.05  # that a request waits for the broker, at most
_APART_SECONDS = 5.0  # after that happened, until one request tries it again
_PREFIX = "retrograd:rates"
_MOST_TRUSTED = 100_000
_IPV6_HOME = 64  # bits that one household or machine shares; the others it may choose


class Rates:
    """Requests of each key."""

    def __init__(self, settings: Settings) -> None:
        self._limits = {policy: _limit(settings, policy) for policy in ("reads", "writes")}
        self._alone = MovingWindowRateLimiter(MemoryStorage())
        self._together = _in_broker(settings.broker_url.get_secret_value())
        self._apart_until = 0.0
        self._lock = threading.Lock()

    def count(self, policy: Policy, who: str) -> None:
        """Count a request.

        Raises:
            RateLimited: there were too many.
        """
        limit = self._limits[policy]
        if limit is None:
            return
        if self._together is not None and self._may_try():
            try:
                refused = _count(self._together, limit, policy, who)
            except (RedisError, OSError) as error:
                self._fall_apart(error)
                refused = _count(self._alone, limit, policy, who)
            else:
                self._apart_until = 0.0
        else:
            refused = _count(self._alone, limit, policy, who)
        if refused is not None:
            raise refused

    def _may_try(self) -> bool:
        """Whether to ask the broker. After an outage one request does, and the others do not wait to see."""
        if not self._apart_until:
            return True
        with self._lock:
            now = time.monotonic()
            if now < self._apart_until:
                return False
            self._apart_until = now + _APART_SECONDS
            return True

    def _fall_apart(self, error: Exception) -> None:
        if not self._apart_until:
            log.warning("the broker does not count requests, each process does: %s", type(error).__name__)
        self._apart_until = time.monotonic() + _APART_SECONDS


class Strangers:
    """Requests of each address without a key, or with a wrong one. Beyond the limit they cost no look at the database.

    Nobody can lock out others behind the same address: keys that were good before are looked up all the same.
    """

    def __init__(self, settings: Settings) -> None:
        self._limit = _limit(settings, "strangers")
        self._windows = MovingWindowRateLimiter(MemoryStorage())
        self._trusted: set[bytes] = set()  # digests of keys

    def admit(self, address: str, key: str) -> None:
        """Let a request through to have its key looked up.

        Raises:
            RateLimited: too many that came from there had none.
        """
        if self._limit is None or keys.digest(key) in self._trusted:
            return
        if not self._windows.test(self._limit, _home(address)):
            raise _limited(self._windows, self._limit, "strangers", _home(address))

    def count(self, address: str, key: str) -> None:
        """Count a request whose key was no good; it is trusted no more if it was."""
        self._trusted.discard(keys.digest(key))
        if self._limit is not None:
            self._windows.hit(self._limit, _home(address))

    def trust(self, key: str) -> None:
        """Remember a key that was good."""
        if len(self._trusted) >= _MOST_TRUSTED:
            self._trusted.clear()
        self._trusted.add(keys.digest(key))


def _limit(settings: Settings, policy: str) -> limits.RateLimitItem | None:
    name = f"rate_limit_{policy}"
    text: str = getattr(settings, name)
    try:
        return limits.parse(text) if text else None
    except ValueError as error:
        raise ValueError(
            f"RETROGRAD_{name.upper()} is {text!r}; write it as `100 per 10 seconds`, or leave it empty for no limit"
        ) from error


def _in_broker(url: str) -> MovingWindowRateLimiter | None:
    if not url:
        return None
    try:
        return MovingWindowRateLimiter(
            RedisStorage(
                url,
                key_prefix=_PREFIX,
                socket_timeout=_BROKER_SECONDS,
                socket_connect_timeout=_BROKER_SECONDS,
                retry=Retry(NoBackoff(), 0),  # type: ignore[arg-type]
            )
        )
    except ValueError:  # no URL of a broker; /readyz says so
        return None


def _count(
    windows: MovingWindowRateLimiter, limit: limits.RateLimitItem, policy: Policy, who: str
) -> RateLimited | None:
    return None if windows.hit(limit, policy, who) else _limited(windows, limit, policy, policy, who)


def _limited(
    windows: MovingWindowRateLimiter, limit: limits.RateLimitItem, policy: Policy, *who: str
) -> RateLimited:
    reset = windows.get_window_stats(limit, *who).reset_time
    seconds = max(1, math.ceil(reset - time.time()))
    return RateLimited(policy, limit.amount, limit.get_expiry(), seconds)


def _home(address: str) -> str:
    """The address, or of an IPv6 address the network that it is free to choose from."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, _IPV6_HOME), strict=False))
