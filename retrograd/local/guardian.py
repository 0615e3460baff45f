"""Run one command and let nothing of it outlive the process that asked for it.

Started by `retrograd.local.guarded` as a script, with the standard library alone, so that it is up in
milliseconds. Its standard input is a pipe whose other end only the parent holds: end of file means that the
parent asked for a stop or is dead, however it died. The kernel's parent-death signal cannot promise as much:
it follows the thread that forked, not the process, and a change of user clears it.

    guardian.py STOP_SIGNAL GRACE_SECONDS COMMAND...

Standard output carries one line, the child's pid. Standard error becomes the child's output. Exits as the
child did: its status, or 128 + the signal that ended it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def main(stop_signal: int, grace: float, command: list[str]) -> int:
    """Run `command` until it ends or the parent is gone; then end all that descends from it."""
    if _LIBC:  # descendants that left the child's process group come back to us when their parent ends
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)  # before the child starts: its end must not be missed
    for number in (signal.SIGCHLD, *_STOP_SIGNALS):
        signal.signal(number, lambda *_: None)
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=2, process_group=0, preexec_fn=_die_with_guardian
        )
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        return 127
    os.write(1, b"%d\n" % child.pid)
    try:
        if _asked_to_stop(child, wake):
            _stop(child, wake, stop_signal, grace)
    finally:
        _kill_descendants(child)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _die_with_guardian() -> None:
    """Covers a guardian that is itself killed; it has one thread, so here the parent-death signal holds."""
    if _LIBC:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _asked_to_stop(child: subprocess.Popen[bytes], wake: int) -> bool:
    """Wait. True when the parent is gone or a signal says stop, False when the child ended by itself."""
    while True:
        ready, _, _ = select.select([0, wake], [], [])
        if child.poll() is not None:
            return False
        if 0 in ready and not os.read(0, 1024):
            return True
        if wake in ready and any(number in _STOP_SIGNALS for number in os.read(wake, 1024)):
            return True


def _stop(child: subprocess.Popen[bytes], wake: int, stop_signal: int, grace: float) -> None:
    child.send_signal(stop_signal)
    deadline = time.monotonic() + grace
    while child.poll() is None and (left := deadline - time.monotonic()) > 0:
        if select.select([wake], [], [], left)[0]:
            os.read(wake, 1024)


def _kill_descendants(child: subprocess.Popen[bytes]) -> None:
    """Kill the child's group, then whatever else of it the kernel has handed to us, until none is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # an empty group; macOS says EPERM
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    while _LIBC:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended while we looked
            parent = stat.read_text().rpartition(")")[2].split()[1]  # the name before ")" may hold anything
            if int(parent) == os.getpid():
                found.append(int(stat.parent.name))
    return found


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
