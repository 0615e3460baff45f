"""One signed POST to a webhook, to addresses that may be had, and over soon whatever the receiver does.

The name is resolved once, all its addresses are checked, and one of those very addresses is connected to: a name that
leads elsewhere a moment later leads nobody astray. Redirects are not followed, proxies are not asked, and of an answer
only status and headers are read.
"""

from __future__ import annotations

import contextlib
import email.utils
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, NamedTuple

import httpcore
import httpx
from standardwebhooks import Webhook

from core.receivers import Address
from core.store.deliveries import Due

CONNECT_SECONDS = 5.0
WHOLE_SECONDS = 15.0


class Answer(NamedTuple):
    """What a receiver said."""

    status: int
    retry_after: float | None  # seconds


class Unsent(Exception):  # noqa: N818 - named for what happened
    """No answer came. The message may be shown to the job's owner: it tells nothing of the network around us."""


class Sender:
    """Sends deliveries. May be used by several threads at once."""

    def __init__(
        self,
        allowed: Callable[[Address], bool],
        *,
        whole_seconds: float = WHOLE_SECONDS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._allowed, self._whole_seconds = allowed, whole_seconds
        self._tls = httpx.create_ssl_context() if tls is None else tls

    def send(self, due: Due) -> Answer:
        """The answer to one attempt.

        Raises:
            Unsent: there was none.
        """
        at = due.at.astimezone(UTC)
        headers = [
            ("host", due.authority),
            ("content-type", "application/json"),
            ("user-agent", "Retrograd webhooks"),
            ("connection", "close"),
            ("webhook-id", str(due.id)),
            ("webhook-timestamp", str(int(at.timestamp()))),
            ("webhook-signature", Webhook(due.secret).sign(str(due.id), at, due.payload)),
        ]
        url = httpcore.URL(due.url)
        backend = _Backend(self._allowed, _Deadline(self._whole_seconds))
        try:
            with (
                httpcore.HTTPConnection(url.origin, self._tls, network_backend=backend) as connection,
                connection.stream("POST", url, headers=headers, content=due.payload.encode()) as response,
            ):
                return Answer(response.status, _retry_after(response.headers))
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise Unsent(_reason(error)) from error


class _Deadline:
    """The end of an attempt, however many operations it takes."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left(self, late: type[httpcore.TimeoutException]) -> float:
        """Seconds, more than 0.

        Raises:
            httpcore.TimeoutException: none are left; of the kind `late`.
        """
        left = self._at - time.monotonic()
        if left <= 0:
            raise late("too late")
        return left


class _Backend(httpcore.NetworkBackend):
    """Connects to allowed addresses only."""

    def __init__(self, allowed: Callable[[Address], bool], deadline: _Deadline) -> None:
        self._allowed, self._deadline = allowed, deadline
        self._tcp = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to the first address that takes it."""
        failure: httpcore.NetworkError | httpcore.TimeoutException | None = None
        for address in self._addresses(host, port):
            seconds = min(CONNECT_SECONDS, self._deadline.left(httpcore.ConnectTimeout))
            try:
                stream = self._tcp.connect_tcp(str(address), port, seconds, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _Stream(stream, self._deadline)
        raise failure or httpcore.ConnectError(_NOWHERE)

    def _addresses(self, host: str, port: int) -> list[Address]:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses = [ip_address(place[0]) for *_, place in found]
        except (OSError, ValueError) as error:  # also a name that cannot be one, and addresses of one link only
            raise httpcore.ConnectError(_NOWHERE) from error
        if not all(self._allowed(address) for address in addresses):
            raise httpcore.ConnectError(
                _NOWHERE
            )  # says no more: which private names there are is nobody's business
        return list(dict.fromkeys(addresses))


_NOWHERE = "its name does not lead to public addresses"


class _Stream(httpcore.NetworkStream):
    """A connection whose every operation ends by the deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left(httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._deadline.left(httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _reason(error: Exception) -> str:
    cause = error.__context__ if error.__cause__ is None else error.__cause__
    match error, cause:
        case _, ssl.SSLCertVerificationError():
            return f"its certificate was refused: {cause.verify_message}"
        case _, ssl.SSLError():
            return "no TLS connection could be made"
        case httpcore.ConnectTimeout(), _:
            return "the connection took too long"
        case httpcore.TimeoutException(), _:
            return "the answer took too long"
        case httpcore.ConnectError(), _ if str(error) == _NOWHERE:
            return _NOWHERE
        case httpcore.ConnectError(), _:
            return "no connection could be made"
        case httpcore.ProtocolError(), _:
            return "the answer was not HTTP, or broke off"
        case _:
            return "the connection broke off"


def _retry_after(headers: list[tuple[bytes, bytes]]) -> float | None:
    """Seconds, from either form of the header."""
    text = next((value.decode("latin-1") for name, value in headers if name.lower() == b"retry-after"), "")
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    with contextlib.suppress(ValueError):
        until = email.utils.parsedate_to_datetime(text)
        return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    return None
