"""From a clone to a learned schedule on the screen, as a newcomer goes: → `benchmarks/results/newcomer.json`.

python -m benchmarks.newcomer

Commands in a fresh clone with an environment of its own and nothing compiled before, then the dashboard in headless
Chromium. Packages come from wherever pip has them from: how long that takes is the network's doing.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page

from benchmarks.measure import RESULTS, write
from benchmarks.pages import browsing

REPOSITORY = Path(__file__).parents[1]
PRESET = "digits-schedules"
_SECONDS = 900  # for each step
_OURS = ("RETROGRAD_", "JAX_", "PYTHONPATH", "VIRTUAL_ENV")  # what a newcomer's environment lacks


def main() -> None:
    """Go, and print and keep when each step was done."""
    with tempfile.TemporaryDirectory(prefix="retrograd-newcomer-") as name:
        Path(name).chmod(0o711)  # Postgres may run as another user
        folder = Path(name) / "retrograd"
        environ = {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}
        environ["XDG_CACHE_HOME"] = str(Path(name) / "cache")  # no programs compiled before
        steps: list[dict[str, float | str]] = []
        began = time.perf_counter()

        def done(step: str) -> None:
            steps.append({"step": step, "seconds": round(time.perf_counter() - began, 1)})
            print(f"{steps[-1]['seconds']:8.1f} s  {step}", flush=True)

        run(["git", "clone", "--quiet", str(REPOSITORY), str(folder)], Path(name), environ)
        done("git clone")
        run(["make", "setup"], folder, environ)
        done("make setup: packages installed")
        with serving(folder, environ) as process, browsing() as browser:
            home = folder / ".retrograd"
            until(lambda: (home / "url").exists() or process.poll() is not None)
            url = (home / "url").read_text().strip()
            done("make serve: it answers")
            page = browser.new_context(base_url=url).new_page()
            page.set_default_timeout(1000 * _SECONDS)
            submit(page, (home / "api-key").read_text().strip())
            done(f"signed in, {PRESET} chosen and submitted on the dashboard")
            page.locator('[data-view="step_size"] canvas').wait_for()
            done("its first learned schedule is on the screen")
            page.locator("#facts .state.large", has_text="succeeded").wait_for()
            done("it has succeeded")
        machine = {"cores": os.cpu_count(), "python": platform.python_version()}
        write(RESULTS / "newcomer.json", {"machine": machine, "steps": steps})


def submit(page: Page, key: str) -> None:
    """The preset as it is, by the form."""
    page.goto("/login")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/")
    page.goto(f"/new?preset={PRESET}")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/jobs/*")


def run(command: list[str], folder: Path, environ: dict[str, str]) -> None:
    """A command that must succeed."""
    subprocess.run(command, cwd=folder, env=environ, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def serving(folder: Path, environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """`make serve`, until Ctrl-C."""
    with subprocess.Popen(
        ["make", "serve"], cwd=folder, env=environ, stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
            process.wait(60)


def until(condition: Callable[[], bool]) -> None:
    """Wait for it.

    Raises:
        TimeoutError: in vain.
    """
    deadline = time.monotonic() + _SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {_SECONDS} s")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
