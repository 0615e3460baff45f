"""Postgres and Valkey from wheels: loopback only, behind passwords, gone with their parent.

`start` and `stop` of a server may alternate, as tests of faults need: the address stays.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from retrograd.home import write_private
from retrograd.local.binaries import postgres_binary, unprivileged, valkey_binary
from retrograd.local.guarded import ComponentFailed, Guarded

_HOST = "127.0.0.1"
_USER = "retrograd"
_ENV = {"LC_ALL": "C", "PATH": os.defpath}  # and nothing else: PG* variables would change the server
_START_SECONDS = 30.0


@contextlib.contextmanager
def postgres(folder: Path, *, log: Path | None = None, keep_open: Sequence[int] = ()) -> Iterator[Postgres]:
    """A Postgres with its files in `folder`, stopped at the end; the data stay."""
    server = Postgres(folder, log, keep_open)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def valkey(folder: Path, *, log: Path | None = None, keep_open: Sequence[int] = ()) -> Iterator[Valkey]:
    """A Redis-protocol broker that keeps nothing on disk, stopped at the end."""
    server = Valkey(folder, log, keep_open)
    try:
        server.start()
        yield server
    finally:
        server.stop()


class Postgres:
    """One database cluster. `start` and `stop` may alternate; address and password stay the same."""

    def __init__(self, folder: Path, log: Path | None = None, keep_open: Sequence[int] = ()) -> None:
        self._folder = _private_folder(folder)
        self._log = log or self._folder / "postgres.log"
        self._data = self._folder / "data"
        self._password = _kept_secret(self._folder / "password")
        self._keep_open = keep_open
        self._process: Guarded | None = None
        self.port = 0  # chosen at the first start

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        return self.process.pid

    @property
    def process(self) -> Guarded:
        """The running server."""
        if self._process is None:
            raise ComponentFailed("Postgres is not running", self._log)
        return self._process

    def url(self, database: str = _USER) -> str:
        """SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://{_USER}:{self._password}@{_HOST}:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it answers; the first start makes the cluster."""
        self.stop()
        if not self._data.exists():
            self._initialize()
        self._clear_stale_pid_file()
        self.port = self.port or free_port()
        settings = {
            "listen_addresses": _HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "timezone": "UTC",
            "jit": "off",  # our queries are short; compiling them costs more than running them
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        self._process = Guarded(
            "Postgres",
            [*unprivileged(), postgres_binary("postgres"), "-D", str(self._data), *options],
            log=self._log,
            env=_ENV,
            keep_open=self._keep_open,
            stop_signal=signal.SIGINT,  # "fast": SIGTERM would wait for clients to leave
        )
        self._process.wait_ready(self._answers, _START_SECONDS)
        with contextlib.suppress(psycopg.errors.DuplicateDatabase):
            self.create_database(_USER)

    def stop(self) -> None:
        """Stop it and wait until none of its processes is left."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def create_database(self, name: str) -> str:
        """Make an empty database and return its URL."""
        with self._connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host=_HOST, port=self.port, user=_USER, password=self._password, dbname="postgres",
            autocommit=True, connect_timeout=5, require_auth="scram-sha-256",
        )  # fmt: skip

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _initialize(self) -> None:
        """Make the cluster beside its final place, so that an interrupted start leaves no half of one."""
        unfinished = self._folder / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(unfinished, "nobody")
        options = [
            "--username", _USER, "--pwfile", str(self._folder / "password"), "--auth", "scram-sha-256",
            "--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8",
            "--encoding", "UTF8", "--sync-method", "syncfs", "--no-instructions",
        ]  # fmt: skip
        Guarded(
            "initdb",
            [*unprivileged(), postgres_binary("initdb"), "-D", str(unfinished), *options],
            log=self._log,
            env=_ENV,
            keep_open=self._keep_open,
        ).wait_success(_START_SECONDS * 2)
        unfinished.rename(self._data)

    def _clear_stale_pid_file(self) -> None:
        """Remove the pid file of a server that was killed: the pid may be another's by now."""
        pid_file = self._data / "postmaster.pid"
        if not pid_file.exists():
            return
        with contextlib.suppress(psutil.NoSuchProcess, ValueError, IndexError):
            process = psutil.Process(int(pid_file.read_text().splitlines()[0]))
            if process.name() == "postgres" and process.cwd() == str(self._data.resolve()):
                raise ComponentFailed(
                    f"Postgres already runs in {self._data} as process {process.pid}; stop it first",
                    self._log,
                )
        pid_file.unlink()


class Valkey:
    """One broker. `start` and `stop` may alternate; each start is empty, on the same address."""

    def __init__(self, folder: Path, log: Path | None = None, keep_open: Sequence[int] = ()) -> None:
        self._folder = _private_folder(folder)
        self._log = log or self._folder / "valkey.log"
        self._password = secrets.token_urlsafe(32)
        self._keep_open = keep_open
        self._process: Guarded | None = None
        self.port = 0  # chosen at the first start

    @property
    def pid(self) -> int:
        """Of the server."""
        return self.process.pid

    @property
    def process(self) -> Guarded:
        """The running server."""
        if self._process is None:
            raise ComponentFailed("Valkey is not running", self._log)
        return self._process

    @property
    def url(self) -> str:
        """Of database 0, the way Celery and redis-py take it."""
        return f"redis://:{self._password}@{_HOST}:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.stop()
        self.port = self.port or free_port()
        settings = self._folder / "valkey.conf"  # a file: arguments are visible to every user
        write_private(
            settings,
            f'bind {_HOST}\nport {self.port}\nrequirepass {self._password}\nsave ""\nappendonly no\n',
        )
        self._process = Guarded(
            "Valkey",
            [valkey_binary(), str(settings)],
            log=self._log,
            env=_ENV,
            cwd=self._folder,
            keep_open=self._keep_open,
        )
        self._process.wait_ready(self._answers, _START_SECONDS)

    def stop(self) -> None:
        """Stop it and wait until it is gone."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def _answers(self) -> bool:
        try:
            with socket.create_connection((_HOST, self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\nQUIT\r\n".encode())
                with connection.makefile("rb") as answers:
                    return answers.read().startswith(b"+OK\r\n+PONG\r\n")
        except OSError:
            return False


def free_port() -> int:
    """A TCP port that nothing on loopback listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _private_folder(folder: Path) -> Path:
    folder = folder.resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def _kept_secret(path: Path) -> str:
    """A random password, made at the first call and read from `path` ever after."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(32))
    return path.read_text()
