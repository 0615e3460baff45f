import base64
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from core.receivers import MAX_URL, checked_secret, checked_url, is_public, new_secret

PRIVATE = {
    "this host": "0.0.0.0",
    "this network": "0.1.2.3",
    "private 10": "10.0.0.1",
    "private 172": "172.31.255.255",
    "private 192": "192.168.1.1",
    "loopback": "127.0.0.1",
    "all of loopback": "127.255.0.3",
    "link-local": "169.254.0.1",
    "cloud metadata": "169.254.169.254",
    "metadata of Azure": "168.63.129.16",
    "metadata of Oracle": "192.0.0.192",
    "shared by a provider": "100.64.0.1",
    "metadata of Alibaba": "100.100.100.200",
    "benchmarks": "198.18.0.1",
    "documentation": "203.0.113.7",
    "former 6to4 relay": "192.88.99.1",
    "multicast": "224.0.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "v6 unspecified": "::",
    "v6 loopback": "::1",
    "v6 link-local": "fe80::1",
    "v6 of one link": "fe80::1%eth0",
    "v6 site-local": "fec0::1",
    "v6 unique local": "fd00:ec2::254",
    "v6 multicast": "ff02::1",
    "v6 documentation": "2001:db8::1",
    "v6 newer documentation": "3fff::1",
    "v6 discard": "100::1",
    "v6 never given out": "4000::1",
    "mapped": "::ffff:10.0.0.1",
    "compatible": "::10.0.0.1",
    "translated": "::ffff:0:10.0.0.1",
    "6to4": "2002:0a00:0001::1",
    "NAT64": "64:ff9b::10.0.0.1",
    "local NAT64": "64:ff9b:1::8.8.8.8",
    "Teredo": "2001:0:4136:e378:8000:63bf:3fff:fdd2",
}
PUBLIC = ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]


@pytest.mark.parametrize("address", PRIVATE.values(), ids=PRIVATE)
def test_addresses_that_are_not_public(address):
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_that_are(address):
    assert is_public(ip_address(address))


@given(st.ip_addresses(v=4))
def test_an_address_within_another_is_judged_as_itself(inner):
    for outer in (f"::ffff:{inner}", f"64:ff9b::{inner}"):
        assert is_public(ip_address(outer)) == is_public(inner)
    assert not is_public(ip_address(f"::{inner}"))


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://Example.com", "https://example.com/"),
        ("https://example.com:443/a?b=%20", "https://example.com/a?b=%20"),
        ("https://example.com:8443/a", "https://example.com:8443/a"),
        ("https://bücher.example/ä?ö", "https://xn--bcher-kva.example/%C3%A4?%C3%B6"),
        ("https://8.8.8.8/", "https://8.8.8.8/"),
        ("https://[2606:4700::1]:8443/", "https://[2606:4700::1]:8443/"),
    ],
)
def test_a_url_is_brought_to_its_normal_form(url, normal):
    assert checked_url(url, allow_private=False) == normal
    assert checked_url(normal, allow_private=False) == normal


BAD_URLS = {
    "": "such as https://",
    "hook": "such as https://",
    "ftp://example.com/": "such as https://",
    "file:///etc/passwd": "such as https://",
    "https://example.com:99999/": "port",
    "https://example.com:0/": "port 0",
    "http://example.com/": "use https",
    "https://user:secret@example.com/": "user or password",
    "https://user@example.com/": "user or password",
    "https://example.com/#part": "fragment",
    "https://example.com/a b": "space or control",
    "https://example.com/\n": "space or control",
    "https://exam\tple.com/": "space or control",
    "https://example.com/\x00": "space or control",
    "https://example.com/\x7f": "space or control",
    "https://[fe80::1%25eth0]/": "such as https://",
    "https://localhost/": "no public address",
    "https://a.localhost/": "no public address",
    "https://127.0.0.1/": "no public address",
    "https://2130706433/": "no public address",
    "https://0x7f.1/": "no public address",
    "https://017700000001/": "no public address",
    "https://[::ffff:127.0.0.1]/": "no public address",
    "https://[::1]/": "no public address",
    "https://" + "ä" * 1200 + ".example/": ".",
    "https://example.com/" + "ä" * 1000: f"longer than {MAX_URL}",
}


@pytest.mark.parametrize(("url", "says"), BAD_URLS.items())
def test_a_bad_url_is_refused_with_the_remedy(url, says):
    with pytest.raises(ValueError, match=says) as refused:
        checked_url(url, allow_private=False)
    assert "secret" not in str(refused.value)


def test_on_ones_own_network_private_addresses_will_do_and_no_more():
    assert checked_url("http://127.0.0.1:80/x", allow_private=True) == "http://127.0.0.1/x"
    for url in ("ftp://127.0.0.1/", "http://u:p@localhost/", "http://localhost/#x", "http://localhost:0/"):
        with pytest.raises(ValueError, match="."):
            checked_url(url, allow_private=True)


@given(st.text(max_size=100) | st.from_regex(r"https?://[^\s]{1,40}", fullmatch=True))
def test_whatever_is_accepted_is_ascii_and_stays_as_it_is(url):
    try:
        normal = checked_url(url, allow_private=False)
    except ValueError:
        return
    assert normal.isascii()
    assert normal.startswith("https://")
    assert normal == checked_url(normal, allow_private=False)


def test_secrets_that_are_made_can_sign():
    made = {checked_secret(new_secret()) for _ in range(10)}
    assert len(made) == 10
    assert all(len(Webhook(secret)._whsecret) == 32 for secret in made)


@pytest.mark.parametrize("length", [24, 25, 64])
def test_secrets_of_ones_own(length):
    assert checked_secret("whsec_" + base64.b64encode(b"x" * length).decode())


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "whsec_short",
        base64.b64encode(b"x" * 32).decode(),
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
        "whsec_" + base64.b64encode(b"x" * 65).decode(),
        "whsec_" + "ä" * 40,
        "whsec_" + "-" * 40,
        "whsec_" + "A" * 40 + "\n",
    ],
)
def test_bad_secrets_are_refused_and_not_shown(secret):
    with pytest.raises(ValueError, match="24 to 64 random bytes") as refused:
        checked_secret(secret)
    assert not secret.removeprefix("whsec_") or secret not in str(refused.value)
