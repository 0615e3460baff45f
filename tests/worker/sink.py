"""A receiver of webhooks that does as it is told."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Received(NamedTuple):
    path: str
    headers: dict
    body: bytes


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):  # clients hang up on purpose
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.sink.answer(Received(self.path, dict(self.headers), body))(self)

    do_GET = do_POST  # so that a redirect that is followed shows

    def log_message(self, *_):
        pass


class Sink:
    """Keeps all that comes. `answers` are for one request each, the last of them for all that follow."""

    def __init__(self, *answers, host="127.0.0.1", port=0, tls=None):
        self.received, self._answers, self._lock = [], list(answers or [status(204)]), threading.Lock()
        self.released, self.hung_up = threading.Event(), threading.Event()
        self.flooded = 0  # bytes
        self._server = _Server((host, port), type("Handler", (_Handler,), {"sink": self}))
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.host, self.port = host, self._server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://{host}:{self.port}/hook"

    def answer(self, received):
        with self._lock:
            self.received.append(received)
            return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    @contextmanager
    def running(self):
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self.released.set()
            self._server.shutdown()
            thread.join()
            self._server.server_close()


def status(code, **headers):
    def answer(handler):
        handler.send_response(code)
        for name, value in {"content_length": "0", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return answer


def raw(data):
    def answer(handler):
        handler.wfile.write(data)
        handler.close_connection = True

    return answer


def hang(handler):
    """Says nothing until the test is over."""
    handler.close_connection = True
    handler.sink.released.wait(60)


def drip(handler):
    """A byte at a time: every single read is quick."""
    for byte in b"HTTP/1.1 200 OK\r\nx: " + b"x" * 10_000:
        handler.wfile.write(bytes([byte]))
        if handler.sink.released.wait(0.02):
            return


def flood(handler):
    """A good status, and a gigabyte after it."""
    status(200, content_length=str(1 << 30))(handler)
    block = bytes(1 << 16)
    try:
        while handler.sink.flooded < 1 << 30:
            handler.wfile.write(block)
            handler.sink.flooded += len(block)
    except OSError:
        handler.sink.hung_up.set()
