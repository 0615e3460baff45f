"""A TCP relay between a browser and a server, which can be cut like a cable."""

import contextlib
import socket
import threading


class Relay:
    """Listens on a port of its own. Cut, it ends all connections and takes no more; mended, it takes new ones."""

    def __init__(self, port):
        self._to = ("127.0.0.1", port)
        self._open = set()
        self._lock = threading.Lock()
        self._is_cut = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        with self._lock:
            self._is_cut = True
            ended, self._open = self._open, set()
        for one in ended:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def mend(self):
        with self._lock:
            self._is_cut = False

    def close(self):
        self.cut()
        self._listener.close()

    def _accept(self):
        while True:
            try:
                browser, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                refused = self._is_cut
            if refused:
                browser.close()
                continue
            try:
                server = socket.create_connection(self._to)
            except OSError:
                browser.close()
                continue
            with self._lock:
                self._open |= {browser, server}
            for one, other in ((browser, server), (server, browser)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open -= {one, other}
        one.close()  # the thread of the other direction closes the other
