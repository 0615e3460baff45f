"""The dashboard with a hundred thousand jobs, and with a job of ten thousand meta-iterations: how soon a page is there.

python -m benchmarks.pages [--jobs 100000] [--iterations 10000] [--repeats 9]

The embedded stack, each part a process, and headless Chromium on the same machine. Every figure is a median over fresh
browser contexts, which have nothing in their cache; the first visit of a page by anybody is not counted.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode
from uuid import UUID

import psycopg
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks import long_jobs
from benchmarks.load import Served, serving
from benchmarks.measure import RESULTS, write
from core.store import cursors

FIRST_PAINT_SECONDS = 1.0
COMPARED = 8
SCRUBBED = 60
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]

# notes when all charts of a page are drawn, in milliseconds since it was asked for
_WATCH = """
window.drawnAt = null;
const drawn = () => {
  if (document.readyState === "loading" || window.drawnAt !== null) return;
  const places = [...document.querySelectorAll(".chart, .sheet-list")];
  if (places.length && places.every((one) => one.querySelector("canvas"))) {
    requestAnimationFrame(() => { window.drawnAt ??= performance.now(); });
  }
};
new MutationObserver(drawn).observe(document, { childList: true, subtree: true });
"""
_TIMES = """() => {
  const [navigation] = performance.getEntriesByType("navigation");
  const [paint] = performance.getEntriesByName("first-contentful-paint");
  return paint && navigation.loadEventEnd ? {
    answer: navigation.responseEnd, paint: paint.startTime, ready: navigation.domContentLoadedEventEnd,
    drawn: window.drawnAt, bytes: navigation.encodedBodySize,
  } : null;
}"""
# milliseconds from what is done in the page until the condition holds and the browser has painted it
_UNTIL = """async ({ act, done }) => {
  const began = performance.now();
  const found = document.getElementById("found"); // told how many rows there are, once they are there
  const waited = new Promise((resolve) => {
    if (done === "drawn") document.addEventListener("retrograd:drawn", resolve, { once: true });
    else new MutationObserver(resolve).observe(found, { childList: true });
  });
  const [selector, value, event] = act;
  const control = document.querySelector(selector);
  control.value = value;
  control.dispatchEvent(new Event(event, { bubbles: true }));
  await waited;
  await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
  return performance.now() - began;
}"""


class Site(NamedTuple):
    """Where pages are, and who asks."""

    url: str
    cookie: dict[str, Any]
    paths: dict[str, str]  # of pages, by what they are called
    job: str  # of the long job's page


def main() -> None:
    """Fill, measure, print and keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages")
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--iterations", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="where the database is made, and deleted again")
    parser.add_argument("--result", type=Path, default=RESULTS / "pages.json")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="retrograd-pages-", dir=options.folder))
    folder.chmod(0o711)  # Postgres may run as another user
    try:
        with serving(folder, [options.jobs]) as (served,), browsing() as browser:
            site = filled(served, options.iterations)
            found = {
                "jobs": options.jobs,
                "iterations": options.iterations,
                "values": long_jobs.VALUES,
                "repeats": options.repeats,
                "machine": {
                    "cores": os.cpu_count(),
                    "python": platform.python_version(),
                    "browser": browser.version,
                },
                "load_average": os.getloadavg()[1],  # of what else the machine does
                "target_ms": 1e3 * FIRST_PAINT_SECONDS,
                "pages": loads(browser, site, options.repeats),
                "interactions": interactions(browser, site, options.repeats),
            }
            write(options.result, found)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def browsing() -> Iterator[Browser]:
    """Headless Chromium."""
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def filled(served: Served, iterations: int) -> Site:
    """The long jobs, and the pages to look at."""
    began = time.perf_counter()
    project = served.filled.projects[0]
    ids = [
        long_jobs.add(served.url, project, iterations, number=number, values=number == 1)
        for number in range(1, COMPARED + 1)
    ]
    with psycopg.connect(served.url.replace("+psycopg", "", 1), autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
        far = connection.execute(
            "SELECT created_at, id FROM jobs WHERE project_id = %s ORDER BY created_at LIMIT 1 OFFSET 100",
            [project],
        ).fetchone()
    assert far is not None
    print(f"{COMPARED} jobs of {iterations} meta-iterations in {time.perf_counter() - began:.0f} s", flush=True)
    job = f"/jobs/{ids[0]}"
    paths = {
        "list": "/",
        "list, by state": "/?state=failed",
        "list, search that finds one": "/?search=schedules+4242",
        "list, search that finds many": "/?search=schedules",
        "list, search that finds nothing": "/?search=zebra",
        "list, search by state that finds nothing": "/?search=zebra&state=failed",
        "list, far page": f"/?{urlencode({'after': cursors.encode(far[0], UUID(str(far[1])))})}",
        "job": job,
        f"compare {COMPARED} such jobs": f"/compare?{urlencode([('job', str(one)) for one in ids])}",
        "new job": "/new",
        "data": "/data",
    }
    cookie = {
        "name": f"retrograd_key_{served.port}",
        "value": served.filled.keys[0],
        "url": f"http://127.0.0.1:{served.port}",
    }
    return Site(f"http://127.0.0.1:{served.port}", cookie, paths, job)


@contextmanager
def opened(browser: Browser, site: Site, path: str) -> Iterator[Page]:
    """A page in a context of its own, painted and drawn."""
    context = browser.new_context(base_url=site.url, viewport={"width": 1280, "height": 800})
    context.add_cookies([site.cookie])  # type: ignore[list-item]
    context.add_init_script(_WATCH)
    page = context.new_page()
    page.goto(path)
    page.wait_for_function(_TIMES)
    if page.locator(".chart, .sheet-list").count():
        page.wait_for_function("() => window.drawnAt !== null")
    yield page
    context.close()


def loads(browser: Browser, site: Site, repeats: int) -> dict[str, dict[str, float]]:
    """Medians of every page, in milliseconds since it was asked for; in rounds, so that noise falls on all alike."""
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in site.paths}
    for turn in range(repeats + 1):
        for name, path in site.paths.items():
            with opened(browser, site, path) as page:
                if turn:
                    seen[name].append(page.evaluate(_TIMES))
    found = {}
    for name, rows in seen.items():
        median = {
            what: statistics.median(row[what] for row in rows) for what in rows[0] if rows[0][what] is not None
        }
        found[name] = median | {"slowest_paint": max(row["paint"] for row in rows)}
        missed = "" if median["paint"] < 1e3 * FIRST_PAINT_SECONDS else "  MISSED"
        print(f"{name:42}" + " ".join(f"{what} {value:8.0f}" for what, value in found[name].items()) + missed)
    return found


def interactions(browser: Browser, site: Site, repeats: int) -> dict[str, dict[str, float]]:
    """Percentiles of what a reader waits for, in milliseconds."""
    found = {
        "filter typed until rows are shown": [_typed(browser, site, "#search", text) for text in _words(repeats)],
        "nothing found typed until it is said": [
            _typed(browser, site, "#search", f"zebra {number}") for number in range(repeats)
        ],
        "state chosen until rows are shown": [
            _typed(browser, site, "#state", state) for state in ("failed", "queued", "cancelled") for _ in range(3)
        ],
        "older page clicked until it is painted": [_turned(browser, site) for _ in range(repeats)],
        "a step of the slider until all is drawn": list(_scrubbed(browser, site)),
    }
    summary = {name: percentiles(times) for name, times in found.items()}
    for name, row in summary.items():
        print(f"{name:42}" + " ".join(f"{what} {value:8.1f}" for what, value in row.items()))
    return summary


def percentiles(times: list[float]) -> dict[str, float]:
    """Middle, and what one in twenty exceeds."""
    cuts = statistics.quantiles(times, n=20, method="inclusive")
    return {"p50": statistics.median(times), "p95": cuts[-1], "of": len(times)}


def _words(count: int) -> list[str]:
    return [f"schedules {1000 + 7 * number}" for number in range(count)]


def _typed(browser: Browser, site: Site, control: str, text: str) -> float:
    with opened(browser, site, "/") as page:
        return _until(page, control, text, "rows")


def _until(page: Page, control: str, value: str, done: str) -> float:
    taken: float = page.evaluate(_UNTIL, {"act": [control, value, "input"], "done": done})
    return taken


def _turned(browser: Browser, site: Site) -> float:
    with opened(browser, site, "/") as page:
        clicked = page.evaluate("() => { document.querySelector('[rel=next]').click(); return Date.now(); }")
        page.wait_for_url("**after=*")
        page.wait_for_function(_TIMES)
        painted: float = page.evaluate(
            "performance.timeOrigin + performance.getEntriesByName('first-contentful-paint')[0].startTime"
        )
        return painted - clicked


def _scrubbed(browser: Browser, site: Site) -> Iterator[float]:
    """Steps to meta-iterations all over the job, none of which was there before."""
    with opened(browser, site, site.job) as page:
        last = int(page.evaluate("document.getElementById('scrub').max"))
        for number in range(1, SCRUBBED + 1):
            yield _until(page, "#scrub", str((last // SCRUBBED) * number - 1), "drawn")


if __name__ == "__main__":
    main()
