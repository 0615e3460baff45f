"""A process that cannot outlive this one: the parent's side of `retrograd.local.guardian`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from core.errors import CoreError

_GUARDIAN = Path(__file__).with_name("guardian.py")
_POLL_SECONDS = 0.02


class ComponentFailed(CoreError):  # noqa: N818 - named for what happened
    """A process of the embedded stack ended, or did not become ready in time."""

    code = "component_failed"

    def __init__(self, what: str, log: Path) -> None:
        self.log = log
        tail = _tail(log)
        super().__init__(f"{what}; the end of {log}:\n{tail}" if tail else f"{what}; {log} is empty")


class Guarded:
    """A running command, its log and its guardian."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        grace: float = 10.0,
        keep_open: Sequence[int] = (),
    ) -> None:
        """Start `command`, its output appended to `log` (mode 0600).

        Args:
            name: what messages call it.
            command: program and arguments.
            log: where its output goes.
            env: its environment; this process's when None.
            cwd: its working folder.
            stop_signal: what asks it to end.
            grace: seconds it has to do so before it is killed.
            keep_open: descriptors, such as a lock, held until nothing is left of the command.
        """
        self.name, self.log, self._grace = name, log, grace
        log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        stop_read, self._stop_pipe = os.pipe()
        try:
            self._guardian = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARDIAN), str(int(stop_signal)), str(grace), *command],
                stdin=stop_read,
                stdout=subprocess.PIPE,
                stderr=log_fd,
                env=env,
                cwd=cwd,
                pass_fds=keep_open,
                start_new_session=True,  # Ctrl-C in a terminal is for us alone
            )
        except BaseException:
            os.close(self._stop_pipe)
            raise
        finally:
            os.close(stop_read)
            os.close(log_fd)
        assert self._guardian.stdout is not None  # noqa: S101 - for the type checker
        self._answer = self._guardian.stdout
        pid = self._answer.readline()
        if not pid:
            self.stop()
            raise ComponentFailed(f"{name} could not be started", log)
        self.pid = int(pid)

    @property
    def guardian_pid(self) -> int:
        """The command itself is the guardian's child."""
        return self._guardian.pid

    def fileno(self) -> int:
        """Becomes readable, for `select`, when the command has ended."""
        return self._answer.fileno()

    def poll(self) -> int | None:
        """Exit status, None while it runs."""
        return self._guardian.poll()

    def wait(self, seconds: float | None = None) -> int | None:
        """Exit status, None if it still runs after `seconds`."""
        try:
            return self._guardian.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def wait_ready(self, ready: Callable[[], bool], seconds: float) -> None:
        """Return once `ready()`.

        Raises:
            ComponentFailed: it ended, or `seconds` went by.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if (status := self.wait(_POLL_SECONDS)) is not None:
                raise ComponentFailed(f"{self.name} ended with status {status} while starting", self.log)
            if time.monotonic() > deadline:
                raise ComponentFailed(f"{self.name} was not ready after {seconds:.0f} s", self.log)

    def wait_success(self, seconds: float) -> None:
        """Wait for a command that ends by itself.

        Raises:
            ComponentFailed: it failed, or runs for longer than `seconds`.
        """
        status = self.wait(seconds)
        self.stop()
        if status is None:
            raise ComponentFailed(f"{self.name} was not done after {seconds:.0f} s", self.log)
        if status != 0:
            raise ComponentFailed(f"{self.name} failed with status {status}", self.log)

    def stop(self) -> int:
        """Ask it to end, wait until nothing of it is left, and return its exit status."""
        if self._stop_pipe >= 0:
            os.close(self._stop_pipe)
            self._stop_pipe = -1
            self._answer.close()
        try:
            status = self._guardian.wait(self._grace + 10)
        except subprocess.TimeoutExpired:
            self._guardian.kill()
            status = self._guardian.wait()
        if status < 0 and hasattr(self, "pid"):  # the guardian itself was killed: do its work
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        return status


def _tail(log: Path, lines: int = 20) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16_384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:]).strip()
    except OSError:
        return ""
