"""Which server to talk to, and with which key."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Self

from retrograd.client.errors import ServerUnreachable
from retrograd.home import Home


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
        """
        home = home or Home()
        url = url or os.environ.get("RETROGRAD_URL") or home.url
        if url is None:
            raise ServerUnreachable(
                "no server is known here; start one with `retrograd up` in this folder, or set RETROGRAD_URL"
            )
        if not url.startswith(("http://", "https://")):
            raise ServerUnreachable(f"{url!r} is no address of a server; write it as http://host:port")
        api_key = api_key or os.environ.get("RETROGRAD_API_KEY")
        if api_key is None and url == home.url:
            api_key = home.api_key
        return cls(url.rstrip("/"), api_key)

    def options(self, timeout: float) -> dict[str, Any]:
        """What httpx's clients are made with."""
        return {
            "base_url": self.url,
            "headers": {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {},
            "timeout": timeout,
            # no proxy to oneself
            "trust_env": not self.url.startswith(("http://127.0.0.1", "http://localhost")),
        }
