"""Which server to talk to, and with which key."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from retrograd.client.errors import InvalidKey, ServerUnreachable
from retrograd.home import Home

_PORTS = 1 << 16


@dataclass(frozen=True)
class Server:
    """An address, and the key that is sent there."""

    url: str
    api_key: str | None = field(repr=False)

    @classmethod
    def found(cls, url: str | None, api_key: str | None, home: Home | None) -> Self:
        """What is given, else what the environment names, else the embedded stack of the folder.

        The key of the embedded stack is never sent to another server.

        Raises:
            ServerUnreachable: none is known, or its address is none.
            InvalidKey: the key holds what no key does.
        """
        home = home or Home()
        url = url or os.environ.get("RETROGRAD_URL") or home.url
        if url is None:
            raise ServerUnreachable(
                "no server is known here; start one with `retrograd up` in this folder, or set RETROGRAD_URL"
            )
        if not _is_address(url):
            raise ServerUnreachable(f"{url!r} is no address of a server; write it as http://host:port")
        api_key = (api_key or os.environ.get("RETROGRAD_API_KEY") or "").strip()
        if not (api_key.isascii() and api_key.isprintable()):
            raise InvalidKey(
                "the API key holds other signs than printable ASCII; copy it anew, without what stands around it"
            )
        if not api_key and url == home.url:
            api_key = home.api_key or ""
        return cls(url.rstrip("/"), api_key or None)

    def options(self, timeout: float) -> dict[str, Any]:
        """What httpx's clients are made with."""
        return {
            "base_url": self.url,
            "headers": {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {},
            "timeout": timeout,
            # no proxy to oneself
            "trust_env": not self.url.startswith(("http://127.0.0.1", "http://localhost")),
        }


def _is_address(url: str) -> bool:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return address.scheme in ("http", "https") and bool(address.host) and (address.port or 0) < _PORTS
