import json
import shutil
import socket
import ssl
import subprocess
import time
from datetime import UTC, datetime
from ipaddress import ip_address
from uuid import uuid4

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from core.receivers import any_address, is_public, new_secret
from core.store.deliveries import Due
from retrograd.local.servers import free_port
from tests.worker import sink as answers
from tests.worker.sink import Sink, status
from worker.sender import Sender, Unsent

SECRET = new_secret()
PAYLOAD = json.dumps({"type": "job.succeeded", "data": {"name": "späti 🎓"}}, ensure_ascii=False)
NOWHERE = "does not lead to public addresses"


def due(url, **changes):
    made = Due(uuid4(), uuid4(), uuid4(), url, SECRET, PAYLOAD, 1, datetime.now(UTC))
    return made._replace(**changes)


@pytest.fixture
def resolver(monkeypatch):
    """Names as the test has them; a list of all that were asked for."""
    real, asked = socket.getaddrinfo, []

    def names(**found):
        def getaddrinfo(host, port, *arguments, **options):
            if host not in found:
                return real(host, port, *arguments, **options)
            asked.append(host)
            addresses = found[host]
            addresses = addresses(len(asked)) if callable(addresses) else addresses
            return [place for address in addresses for place in real(address, port, *arguments, **options)]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return names


@pytest.fixture
def sender():
    return Sender(any_address)


def test_what_is_sent_is_verified_by_the_library(sender):
    with Sink().running() as sink:
        sent = due(sink.url)
        assert sender.send(sent).status == 204
    (received,) = sink.received
    assert received.body.decode() == PAYLOAD
    assert received.path == "/hook"
    assert received.headers["host"] == f"127.0.0.1:{sink.port}"
    assert received.headers["content-type"] == "application/json"
    assert received.headers["webhook-id"] == str(sent.id)
    assert Webhook(SECRET).verify(received.body, received.headers) == json.loads(PAYLOAD)
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(received.body, received.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(received.body + b" ", received.headers)


@pytest.mark.parametrize("code", [200, 204, 301, 400, 410, 500, 503])
def test_any_status_is_an_answer(sender, code):
    with Sink(status(code)).running() as sink:
        assert sender.send(due(sink.url)) == (code, None)


def test_redirects_are_not_followed(sender):
    with Sink().running() as inside:
        for code in (301, 302, 303, 307, 308):
            with Sink(status(code, location=inside.url)).running() as sink:
                assert sender.send(due(sink.url)).status == code
    assert inside.received == []


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        ("9" * 400, 999_999_999),
        ("-5", None),
        ("soon", None),
        ("٣", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Mon, 25 Nov 2999 10:00:00 GMT", pytest.approx(3e10, rel=0.1)),
    ],
)
def test_a_receiver_says_when_to_come_again(sender, header, seconds):
    answer = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: " + header.encode() + b"\r\n\r\n"
    with Sink(answers.raw(answer)).running() as sink:
        assert sender.send(due(sink.url)) == (503, seconds)


def test_one_that_hangs_or_drips_is_given_up_in_time():
    sender = Sender(any_address, whole_seconds=0.5)
    for answer in (answers.hang, answers.drip):
        with Sink(answer).running() as sink:
            began = time.monotonic()
            with pytest.raises(Unsent, match="took too long"):
                sender.send(due(sink.url))
            assert 0.4 < time.monotonic() - began < 2


def test_one_that_takes_no_connections_is_given_up_in_time():
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    with full, socket.create_connection(full.getsockname()):
        began = time.monotonic()
        with pytest.raises(Unsent, match="took too long|no connection"):
            Sender(any_address, whole_seconds=0.5).send(due(f"http://127.0.0.1:{full.getsockname()[1]}/"))
        assert time.monotonic() - began < 2


def test_a_gigabyte_of_an_answer_is_not_read(sender):
    with Sink(answers.flood).running() as sink:
        assert sender.send(due(sink.url)).status == 200
        assert sink.hung_up.wait(10)
        assert sink.flooded < 64 << 20  # what the kernel's buffers took; none of it was read


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * (1 << 20), b"HTTP/9 1 \x00\r\n\r\n"],
)
def test_what_is_not_http_is_no_answer_and_is_not_repeated(sender, answer):
    with Sink(answers.raw(answer)).running() as sink, pytest.raises(Unsent) as unsent:
        sender.send(due(sink.url))
    assert "SSH" not in str(unsent.value)


def test_nobody_there(sender):
    with pytest.raises(Unsent, match="no connection could be made"):
        sender.send(due(f"http://127.0.0.1:{free_port()}/"))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost", "0x7f.1", "2130706433", "0.0.0.0"]
)
def test_a_private_address_is_not_connected_to(host):
    with Sink().running() as sink, pytest.raises(Unsent, match=NOWHERE):
        Sender(is_public).send(due(f"http://{host}:{sink.port}/"))
    assert sink.received == []


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::1"]])
def test_a_name_that_leads_to_a_private_address_is_not_connected_to(resolver, addresses):
    asked = resolver(**{"sink.test": addresses})
    with Sink().running() as sink, pytest.raises(Unsent, match=NOWHERE):
        Sender(is_public).send(due(f"http://sink.test:{sink.port}/"))
    assert asked == ["sink.test"]
    assert sink.received == []


@pytest.mark.parametrize("name", ["no-such-name.invalid", "a..b", "x" * 64 + ".test", "-"])
def test_a_name_that_leads_nowhere_looks_like_a_private_one(name):
    with pytest.raises(Unsent, match=NOWHERE):
        Sender(is_public).send(due(f"http://{name}/"))


def test_a_name_that_leads_elsewhere_a_moment_later_leads_nobody_astray(resolver):
    """127.0.0.1 stands for a public address here, and 127.0.0.2 for a private one."""
    asked = resolver(**{"sink.test": lambda time: ["127.0.0.1"] if time == 1 else ["127.0.0.2"]})
    sender = Sender(lambda address: address == ip_address("127.0.0.1"))
    with Sink().running() as outside, Sink(host="127.0.0.2", port=outside.port).running() as inside:
        sent = due(f"http://sink.test:{outside.port}/hook")
        assert sender.send(sent).status == 204
        assert asked == ["sink.test"]  # once: what was checked is what was connected to
        with pytest.raises(Unsent, match=NOWHERE):
            sender.send(sent)
        assert outside.received[0].headers["host"] == f"sink.test:{outside.port}"
        # the control: to one that may be had, the name leads there
        assert Sender(any_address).send(sent).status == 204
    assert (len(outside.received), len(inside.received)) == (1, 1)


def test_the_next_address_is_tried_when_one_does_not_answer(sender, resolver):
    with Sink().running() as sink:
        resolver(**{"sink.test": ["127.0.0.9", "127.0.0.1"]})
        assert sender.send(due(f"http://sink.test:{sink.port}/")).status == 204


def test_proxies_are_not_asked(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    with Sink().running() as sink:
        assert Sender(any_address).send(due(sink.url)).status == 204


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
def test_the_certificate_must_be_that_of_the_name(resolver, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=sink.test"
    extra = ["-addext", "subjectAltName=DNS:sink.test", "-keyout", key, "-out", certificate]
    subprocess.run(["openssl", *made.split(), *extra], check=True, capture_output=True)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)
    trusting = Sender(any_address, tls=ssl.create_default_context(cafile=certificate))
    resolver(**{"sink.test": ["127.0.0.1"], "other.test": ["127.0.0.1"]})
    with Sink(tls=server).running() as sink:
        assert trusting.send(due(f"https://sink.test:{sink.port}/hook")).status == 204
        for sender, host, says in (
            (trusting, "other.test", "certificate was refused: Hostname mismatch"),
            (Sender(any_address), "sink.test", "certificate was refused: self-signed certificate"),
        ):
            with pytest.raises(Unsent, match=says):
                sender.send(due(f"https://{host}:{sink.port}/hook"))
    assert len(sink.received) == 1
