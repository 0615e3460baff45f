"""Which server to talk to, and with which key."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from retrograd.client.errors import InvalidKey, ServerUnreachable
from retrograd.home import Home

_PORTS = 1 << 16
_BEFORE = re.compile(r"^(\s*\w*:?//)?.*@", re.DOTALL)
_AFTER = re.compile(r"([?#]).+", re.DOTALL)


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
            ServerUnreachable: none is known, or its address is none, or none that a folder may name.
            InvalidKey: the key holds what no key does.
        """
        home = home or Home()
        given = (url or os.environ.get("RETROGRAD_URL") or "").strip()
        kept = home.url
        url = given or kept
        if url is None:
            raise ServerUnreachable(
                "no server is known here; start one with `retrograd up` in this folder, or set RETROGRAD_URL"
            )
        address = _address(url)
        if not given and not _is_here(address):  # a folder may be a stranger's, and must not lead the key astray
            raise ServerUnreachable(
                f"{home.url_file} names {url}, which is not on this machine, as `retrograd up` has it; remove the "
                "file, or set RETROGRAD_URL if you mean that server"
            )
        api_key = (api_key or os.environ.get("RETROGRAD_API_KEY") or "").strip()
        if not (api_key.isascii() and api_key.isprintable()):
            raise InvalidKey(
                "the API key holds other signs than printable ASCII; copy it anew, without what stands around it"
            )
        if not api_key and url == kept:
            api_key = home.api_key or ""
        return cls(url.rstrip("/"), api_key or None)

    def options(self, timeout: float) -> dict[str, Any]:
        """What httpx's clients are made with."""
        return {
            "base_url": self.url,
            "headers": {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {},
            "timeout": timeout,
            "trust_env": not _is_here(httpx.URL(self.url)),  # no proxy to oneself
        }


def _address(url: str) -> httpx.URL:
    """What a client is told, taken apart. What may be a secret in it is not repeated.

    Raises:
        ServerUnreachable: it is no address of a server.
    """
    try:
        address = httpx.URL(url)
        address.raw_host.decode().encode("idna")  # as it is when it is looked up
        known = address.scheme in ("http", "https") and bool(address.host) and (address.port or 0) < _PORTS
    except (httpx.InvalidURL, ValueError):
        known = False
    if not known:
        raise ServerUnreachable(f"{_shown(url)!r} is no address of a server; write it as http://host:port")
    if address.userinfo:
        raise ServerUnreachable(
            f"{_shown(url)!r} holds a name or a password, which no server asks for; leave it out, and set "
            "RETROGRAD_API_KEY"
        )
    if "?" in url or "#" in url:
        raise ServerUnreachable(f"{_shown(url)!r} goes on after its path; leave out what begins with ? or #")
    return address


def _shown(url: str) -> str:
    """Without what stands before the host, and after the path."""
    return _AFTER.sub(r"\1…", _BEFORE.sub(r"\1…@", url))


def _is_here(address: httpx.URL) -> bool:
    """Whether it is on this machine, whatever a name server says."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(address.host).is_loopback
    return address.host == "localhost"
