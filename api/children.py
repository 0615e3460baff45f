"""Processes of our own that do what is too large, too slow or too dangerous to be done here: so many at a time, for so
long.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping

from api.errors import Busy
from core.config import Settings

GRACE_SECONDS = 5.0  # beyond the limit that a child sets itself

_SECRETS = (
    "RETROGRAD_DATABASE_URL",
    "RETROGRAD_BROKER_URL",
    "RETROGRAD_BOOTSTRAP_API_KEY",
    "RETROGRAD_METRICS_TOKEN",
)
_OF_DATA = ("data", "storage_url", "storage_cache", "storage_cache_bytes")
_OF_THE_SYSTEM = (
    "HOME",
    "LANG",
    "LD_LIBRARY_PATH",
    "PATH",
    "PYTHONHOME",
    "PYTHONPATH",
    "TMPDIR",
    "TZ",
    "VIRTUAL_ENV",
)
_ON_CPU = {"JAX_PLATFORMS": "cpu"}  # a GPU here is its worker's


class TookTooLong(Exception):  # noqa: N818 - named for what happened
    """A child was ended by its own clock, or by ours."""


class Killed(Exception):  # noqa: N818
    """A child was ended by a signal: its name."""


class Children:
    """Answers questions by a child for each, and refuses them while as many as may be are at it."""

    def __init__(self, at_once: int, environ: Mapping[str, str]) -> None:
        self._at_once, self._environ = at_once, dict(environ)
        self._turns = threading.Semaphore(at_once)
        self._lock = threading.Lock()
        self._at_it: set[subprocess.Popen[bytes]] = set()

    def answer(self, arguments: list[str], asked: bytes, seconds: float, *, doing: str) -> bytes:
        """What `python -m arguments` writes after it has read what is asked. Takes seconds; hold nothing meanwhile.

        Raises:
            Busy: there is no room for another one; `doing` names what they do.
            TookTooLong: it did, with some grace.
            Killed: by a signal; it may have needed more memory than it may have.
        """
        if not self._turns.acquire(blocking=False):
            number = "one" if self._at_once == 1 else str(self._at_once)
            raise Busy(f"{doing} takes a process of its own, of which there may be {number} at a time")
        try:
            return self._answered(arguments, asked, seconds)
        finally:
            self._turns.release()

    def close(self) -> None:
        """End those that are at it."""
        with self._lock:
            for child in self._at_it:
                _kill(child)

    def _answered(self, arguments: list[str], asked: bytes, seconds: float) -> bytes:
        with subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self._environ,
            start_new_session=True,  # what it may start itself ends with it
        ) as child:  # fmt: skip
            with self._lock:
                self._at_it.add(child)
            try:
                output, complaint = child.communicate(asked, seconds + GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                raise TookTooLong from None
            finally:
                with self._lock:
                    self._at_it.discard(child)
                _kill(child)  # unless it has ended
        if child.returncode in (-signal.SIGALRM, -signal.SIGXCPU):
            raise TookTooLong
        if child.returncode < 0:
            raise Killed(signal.Signals(-child.returncode).name)
        if child.returncode:
            raise RuntimeError(f"{arguments[0]} failed: {complaint.decode(errors='replace')[-4000:]}")
        return output


def trusted_environ(settings: Settings) -> dict[str, str]:
    """For a child of ours that reads data: all that we have but our secrets, and where data are."""
    environ = {name: value for name, value in os.environ.items() if name not in _SECRETS} | _ON_CPU
    for name in _OF_DATA:
        if (value := getattr(settings, name)) is not None:
            environ[f"RETROGRAD_{name.upper()}"] = str(value)
    return environ


def bare_environ() -> dict[str, str]:
    """For a child that looks at what a user has made: nothing but what Python needs."""
    return {name: os.environ[name] for name in _OF_THE_SYSTEM if name in os.environ} | _ON_CPU


def _kill(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
