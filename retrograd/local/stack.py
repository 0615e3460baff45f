"""The whole service in one folder: Postgres, Valkey, API, worker and janitor, up and down together."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import psutil

from core.errors import CoreError
from retrograd.home import Home
from retrograd.local.guarded import ComponentFailed, Guarded
from retrograd.local.servers import Postgres, Valkey, free_port

HOST = "127.0.0.1"
DEFAULT_PORT = 8000

_READY_SECONDS = 60.0
_LOCK_SECONDS = 40.0  # longer than any component of a stack that was killed takes to end
_API_GRACE_SECONDS = 15.0  # to finish its answers
_WORKER_GRACE_SECONDS = 20.0  # to give its job back


class PortTaken(CoreError):  # noqa: N818 - named for what happened
    """Another program listens on the port."""

    code = "port_taken"

    def __init__(self, port: int) -> None:
        super().__init__(
            f"port {port} is taken by another program; choose another with --port, 0 for any that is free"
        )


class AlreadyRunning(CoreError):  # noqa: N818
    """Another stack uses the folder."""

    code = "already_running"

    def __init__(self, home: Home, pid: str) -> None:
        at = f", at {home.url}" if home.url else ""
        super().__init__(
            f"a stack already runs in {home.path} (process {pid}{at}); use that one, stop it first, or "
            "choose another folder with --folder"
        )


class Stack:
    """Start with `with`, or `start` and `stop`. Every process ends with this one, even at kill -9."""

    def __init__(
        self,
        home: Home,
        port: int = DEFAULT_PORT,
        data: Path | None = None,
        report: Callable[[str], None] = lambda component: None,
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            home: folder of data, logs and key.
            port: of the API; 0 takes a free one.
            data: folder of data sets; RETROGRAD_DATA when None.
            report: told what is being started.
        """
        self.home, self._report = home, report
        self._data = data or (Path(os.environ["RETROGRAD_DATA"]) if os.environ.get("RETROGRAD_DATA") else None)
        self.port = port or free_port()
        self.url = f"http://{HOST}:{self.port}"
        self._components: list[Guarded] = []
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Bring everything up, or nothing.

        Raises:
            AlreadyRunning: another stack uses the folder.
            PortTaken: another program has the port.
            ComponentFailed: a component did not come up.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Bring everything down, the last started first."""
        self._components = []
        self._cleanup.close()

    @property
    def api_key(self) -> str:
        """The key that the API accepts."""
        return self.home.ensure_api_key()

    def check(self, seconds: float | None = 0) -> None:
        """Wait for `seconds` (None: for ever) and see that every component still runs.

        Raises:
            ComponentFailed: one has ended. None is restarted: what kills one would kill the next.
        """
        ended, _, _ = select.select(self._components, [], [], seconds)
        for component in ended:
            status = component.wait()
            raise ComponentFailed(f"{component.name} ended unexpectedly with status {status}", component.log)

    def processes(self) -> list[psutil.Process]:
        """All that runs for this stack now."""
        return [
            process
            for component in self._components
            for process in _with_descendants(psutil.Process(component.guardian_pid))
        ]

    def _start(self) -> None:
        folder = self.home.make()
        lock = self._lock(folder)
        require_free(self.port)
        self._logs = folder / "logs"
        self._logs.mkdir(mode=0o700, exist_ok=True)
        self._report("Postgres")
        database = Postgres(folder / "postgres", self._log("postgres"), [lock])
        self._cleanup.callback(database.stop)
        database.start()
        self._components.append(database.process)
        self._report("Valkey")
        broker = Valkey(folder / "valkey", self._log("valkey"), [lock])
        self._cleanup.callback(broker.stop)
        broker.start()
        self._components.append(broker.process)
        env = self._environment(database.url(), broker.url, folder)

        def python(name: str, *arguments: str, grace: float = 10.0) -> Guarded:
            log = self._log(name)
            command = [sys.executable, "-m", *arguments]
            process = Guarded(name, command, log=log, env=env, cwd=folder, grace=grace, keep_open=[lock])
            self._cleanup.callback(process.stop)
            return process

        self._report("migrations")
        python("migrations", "core.store.migrate").wait_success(_READY_SECONDS)
        self._report("API, worker and janitor")
        api = python("api", "api", "--host", HOST, "--port", str(self.port), grace=_API_GRACE_SECONDS)
        worker = python("worker", "worker", grace=_WORKER_GRACE_SECONDS)
        janitor = python("janitor", "worker.janitor")
        self._components += [api, worker, janitor]
        api.wait_ready(lambda: _is_ready(self.url), _READY_SECONDS)
        for role, process in (("worker", worker), ("janitor", janitor)):
            check = [sys.executable, "-m", "worker.health", role]
            process.wait_ready(lambda check=check: _succeeds(check, env), _READY_SECONDS)  # type: ignore[misc]
        self.home.url_file.write_text(self.url + "\n")
        self._cleanup.callback(self.home.url_file.unlink, missing_ok=True)

    def _environment(self, database_url: str, broker_url: str, folder: Path) -> dict[str, str]:
        """This process's, less what would redirect the components, plus their settings."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        env.setdefault("RETROGRAD_QUEUE", "cpu")
        env.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "jax-cache"))
        env.setdefault("RETROGRAD_SCRATCH", str(folder / "scratch"))
        env |= {
            "RETROGRAD_DATABASE_URL": database_url,
            "RETROGRAD_BROKER_URL": broker_url,
            "RETROGRAD_BOOTSTRAP_API_KEY": self.api_key,
            "RETROGRAD_STORAGE_URL": str(folder / "blobs"),
            "TMPDIR": str(_empty(folder / "tmp")),  # signs of life lie there: not those of another stack
            "PYTHONSAFEPATH": "1",  # a folder called `api` or `worker` where we run must not be imported
            "PYTHONUNBUFFERED": "1",
        }
        if self._data is not None:
            env["RETROGRAD_DATA"] = str(self._data.resolve())  # they run in another folder
        return env

    def _lock(self, folder: Path) -> int:
        """Take the folder. Guardians hold the lock too, so it is free only when no process is left."""
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._cleanup.callback(os.close, lock)
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(lock, 32, 0).decode().strip()
                if time.monotonic() > deadline or (holder.isdigit() and psutil.pid_exists(int(holder))):
                    raise AlreadyRunning(self.home, holder) from None
                time.sleep(0.1)  # its holder is dead and the guardians are ending what it left
        os.truncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        return lock

    def _log(self, name: str) -> Path:
        """A new log; that of the stack before is kept beside it."""
        path = self._logs / f"{name}.log"
        if path.exists():
            path.replace(path.with_suffix(".log.1"))
        return path


def require_free(port: int) -> None:
    """Raise PortTaken when something listens on `port`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise PortTaken(port) from None


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _succeeds(command: list[str], env: dict[str, str]) -> bool:
    return subprocess.run(command, env=env, cwd=env["TMPDIR"], check=False).returncode == 0


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    return folder


def _with_descendants(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]
