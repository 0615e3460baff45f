"""A relay of TCP connections that breaks some of them."""

import select
import socket
import socketserver
import threading
from contextlib import contextmanager
from urllib.parse import urlsplit


@contextmanager
def relaying(url, *cuts, only=b" HTTP/1.1\r\n", port=0):
    """Yields a URL that leads to `url`, and a list that grows by one for each connection that was cut.

    The connections of requests whose head holds `only` are cut, one after the other, after so many bytes of the answer;
    at 0 once it begins, all of it being lost. When `cuts` are used up, connections last.
    """
    target = urlsplit(url)
    left, cut, stopped = list(cuts), [], threading.Event()

    class Relay(socketserver.BaseRequestHandler):
        def handle(self):
            allowance = None
            with socket.create_connection((target.hostname, target.port)) as server:
                while not stopped.is_set():
                    for source in select.select([self.request, server], [], [], 0.05)[0]:
                        data = source.recv(1 << 16)
                        if not data:
                            return
                        if source is self.request:
                            if only in data:
                                allowance = left.pop(0) if left else None
                            server.sendall(data)
                            continue
                        self.request.sendall(data if allowance is None else data[:allowance])
                        if allowance is not None and (allowance := allowance - len(data)) <= 0:
                            cut.append(allowance)
                            return

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server(("127.0.0.1", port), Relay) as relay:
        thread = threading.Thread(target=relay.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{relay.server_address[1]}", cut
        finally:
            stopped.set()
            relay.shutdown()
            thread.join()
