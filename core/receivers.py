"""Where a webhook may be sent: to which URLs, and to which addresses."""

from __future__ import annotations

import base64
import binascii
import secrets
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from pydantic import AnyHttpUrl, TypeAdapter, ValidationError

MAX_URL = 2048
PREFIX = "whsec_"
_SECRET_BYTES = range(24, 65)  # what Standard Webhooks asks for

Address = IPv4Address | IPv6Address

_URL: TypeAdapter[AnyHttpUrl] = TypeAdapter(AnyHttpUrl)
_GLOBAL_V6 = ip_network("2000::/3")  # all that has been given out for the internet
_NAT64 = ip_network("64:ff9b::/96")  # where a network without IPv4 shows all of it
# beside what `ipaddress` knows, which differs between versions of Python
_SPECIAL = tuple(
    ip_network(network)
    for network in (
        "100.64.0.0/10",  # shared by customers of a provider
        "168.63.129.16/32",  # public in form; what it tells of a virtual machine on Azure is for that machine alone
        "192.0.0.0/24",  # for protocols
        "192.88.99.0/24",  # former relays of 6to4
        "2001::/23",  # for protocols, Teredo among them
        "3fff::/20",  # for documentation
    )
)


def checked_url(url: str, *, allow_private: bool) -> str:
    """The URL in its normal form, in ASCII.

    Private names are not found out here: what a name leads to is checked when it is connected to.

    Raises:
        ValueError: nothing may be sent there; says why.
    """
    if any(character <= " " or character == "\x7f" for character in url):
        raise ValueError("holds a space or control character; remove or percent-encode it")
    try:
        parsed = _URL.validate_python(url)
    except ValidationError as error:
        raise ValueError(f"{error.errors()[0]['msg']}; give one such as https://example.com/hook") from error
    if parsed.scheme != "https" and not allow_private:
        raise ValueError("is not encrypted; use https")
    if parsed.username is not None or parsed.password is not None:
        raise ValueError("holds a user or password; remove them: the signature says who sends")
    if parsed.fragment is not None:
        raise ValueError("has a fragment, which is never sent; remove all from # on")
    if parsed.port == 0:
        raise ValueError("port 0 does not exist; use 1 to 65535")
    normal = str(parsed)
    if len(normal) > MAX_URL:
        raise ValueError(f"is longer than {MAX_URL} characters in ASCII; use a shorter one")
    if not allow_private and _is_private_host((parsed.host or "").strip("[]")):
        raise ValueError("is no public address; use one, or have the operator set RETROGRAD_WEBHOOK_ALLOW_PRIVATE")
    return normal


def is_public(address: Address) -> bool:
    """Whether this is an address of the open internet, also where it stands for another one."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
        if address not in _GLOBAL_V6:
            return False
    special = any(address.version == network.version and address in network for network in _SPECIAL)
    return address.is_global and not (special or address.is_multicast or address.is_reserved)


def any_address(address: Address) -> bool:
    """Every address may be had: for receivers on one's own network."""
    return True


def new_secret() -> str:
    """A key for signatures that nobody has."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def checked_secret(secret: str) -> str:
    """The secret, if it can sign.

    Raises:
        ValueError: it cannot. The message does not hold it.
    """
    try:
        decoded = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (ValueError, binascii.Error):
        decoded = b""
    if not secret.startswith(PREFIX) or len(decoded) not in _SECRET_BYTES:
        raise ValueError(
            f"must be {PREFIX} followed by 24 to 64 random bytes in base64; leave it out to be given one"
        )
    return secret


def _is_private_host(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not is_public(ip_address(host))
    except ValueError:
        return False
