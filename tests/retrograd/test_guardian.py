"""Nothing that a guardian runs outlives the process that asked for it, however that process ends."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from retrograd.local.guarded import ComponentFailed, Guarded

GONE_WITHIN = 15.0

# Ignores every polite request, and has a child in a session of its own: neither a signal nor the
# end of its process group removes it.
STUBBORN = """
import os, signal, subprocess, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
nested = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("nested", nested.pid, flush=True)
time.sleep(600)
"""

# A parent that starts the guarded command and is then killed.
PARENT = """
import sys, time
from pathlib import Path
from retrograd.local.guarded import Guarded
log = Path(sys.argv[1])
process = Guarded("stubborn", [sys.executable, "-c", sys.argv[2]], log=log, grace=0.2)
process.wait_ready(lambda: "nested" in log.read_text(), 30)
print(process.pid, flush=True)
time.sleep(600)
"""


def nested_pid(log: Path) -> int:
    return int(log.read_text().split()[-1])


def wait_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=GONE_WITHIN)
    assert not alive


def test_kill_9_of_the_parent_leaves_nothing(tmp_path):
    log = tmp_path / "log"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(log), STUBBORN], stdout=subprocess.PIPE, text=True
    )
    with parent, parent.stdout:
        child = psutil.Process(int(parent.stdout.readline()))
        processes = [child, child.parent(), psutil.Process(nested_pid(log))]
        assert len({process.pid for process in processes} | {parent.pid}) == 4
        parent.kill()
        wait_gone(processes)


@pytest.mark.skipif(sys.platform != "linux", reason="needs the parent-death signal")
def test_kill_9_of_the_guardian_leaves_no_child(tmp_path):
    process = Guarded("sleeper", [sys.executable, "-c", "import time; time.sleep(600)"], log=tmp_path / "log")
    child = psutil.Process(process.pid)
    child.parent().kill()
    wait_gone([child])
    assert process.stop() == -signal.SIGKILL


def test_stop_kills_what_ignores_it_and_its_descendants(tmp_path):
    log = tmp_path / "log"
    process = Guarded("stubborn", [sys.executable, "-c", STUBBORN], log=log, grace=0.2)
    process.wait_ready(lambda: "nested" in log.read_text(), 30)
    processes = [psutil.Process(process.pid), psutil.Process(nested_pid(log))]
    assert process.stop() == 128 + signal.SIGKILL
    assert not any(found.is_running() for found in processes)


def test_stop_asks_with_the_given_signal_and_gives_time(tmp_path):
    program = textwrap.dedent("""
        import signal, sys
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        print("ready", flush=True)
        signal.sigwait([signal.SIGINT])
        print("saved", flush=True)
        sys.exit(3)
    """)
    log = tmp_path / "log"
    process = Guarded("saver", [sys.executable, "-c", program], log=log, stop_signal=signal.SIGINT)
    process.wait_ready(lambda: "ready" in log.read_text(), 30)
    assert process.poll() is None
    assert process.stop() == 3
    assert log.read_text() == "ready\nsaved\n"
    assert process.stop() == 3  # a second stop changes nothing


def test_a_child_that_ends_takes_its_descendants_along(tmp_path):
    program = STUBBORN.replace("time.sleep(600)\n", "sys.exit(5)\n")
    log = tmp_path / "log"
    process = Guarded("quitter", [sys.executable, "-c", program], log=log)
    assert process.wait(30) == 5
    assert not psutil.pid_exists(nested_pid(log))
    process.stop()


def test_failures_name_the_component_and_show_its_log(tmp_path):
    log = tmp_path / "log"
    crash = Guarded("crasher", [sys.executable, "-c", "raise SystemExit('out of luck')"], log=log)
    with pytest.raises(ComponentFailed, match=r"crasher ended with status 1 while starting(.|\n)*out of luck"):
        crash.wait_ready(lambda: False, 30)
    crash.stop()
    slow = Guarded("sloth", [sys.executable, "-c", "import time; time.sleep(600)"], log=tmp_path / "other")
    with pytest.raises(ComponentFailed, match="sloth was not ready after 0 s"):
        slow.wait_ready(lambda: False, 0)
    with pytest.raises(ComponentFailed, match="sloth was not done after 0 s"):
        slow.wait_success(0.01)
    with pytest.raises(ComponentFailed, match=r"nothing could not be started(.|\n)*No such file"):
        Guarded("nothing", ["/nonexistent/program"], log=log)


def test_a_lock_is_held_until_nothing_is_left(tmp_path):
    import fcntl

    def locked() -> bool:
        with (tmp_path / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    process = Guarded("holder", command, log=tmp_path / "log", keep_open=[lock])
    os.close(lock)
    assert locked()
    process.stop()
    assert not locked()
