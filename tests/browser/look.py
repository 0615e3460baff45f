"""Every page and state of the dashboard as pictures to look at, light and dark, on a desk and on a phone.

python -m tests.browser.look FOLDER [--only NAME …]

Starts the embedded stack and real jobs. With RETROGRAD_DATA, a folder with MNIST and Omniglot, there are more of them. With AXE, the
accessibility checker, each state is checked; and each is measured for what is wider than the screen.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import httpx
from playwright.sync_api import sync_playwright

from core import presets
from retrograd.home import Home
from retrograd.local.stack import Stack
from tests.browser.conftest import CHROMIUM, FLAGS, sign_in
from tests.builders import document

SIZES = {"desk": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
SCHEMES = ("light", "dark")
SECONDS = 900
_SMALL = {"training.num_steps": 40, "meta.num_iterations": 12, "meta.evaluation_seeds": 1}
_PENALTIES = {
    "l2": {"learn": True, "per": ["weight"], "initial": 0.005},
    "momentum": {"learn": True, "initial": 0.8},
}
_TABLE = "rooms,town,price\n" + "".join(f"{n % 7},{'ab'[n % 2]},{n * 2.5}\n" for n in range(60))


def jobs():
    """Specifications by what is seen of them."""
    schedules = presets.get("digits-schedules").model_dump(mode="json", exclude_unset=True)
    schedules["meta"] |= {"num_iterations": 20, "evaluation_seeds": 1}
    made = {
        "schedules": schedules,
        "penalties": document(_SMALL | {"name": "a penalty for each pixel", "hyperparameters": _PENALTIES}),
        "images": document(
            _SMALL
            | {
                "name": "ten digits to train on",
                "problem.synthetic_examples": 10,
                "training.batch_size": 10,
                "hyperparameters": {"inputs": {"learn": True}, "l2": {"learn": True, "initial": 0.01}},
                "meta.step_size": 0.1,
                "meta.num_iterations": 30,
            }
        ),
        "failed": document(_SMALL | {"name": "too large a step", "hyperparameters.step_size.initial": 1e9}),
    }
    if os.environ.get("RETROGRAD_DATA"):
        tasks = presets.get("multitask-weight-tying").model_dump(mode="json", exclude_unset=True)
        tasks["problem"]["dataset"] |= {"alphabets": ["Balinese", "Early_Aramaic", "Greek"], "rotated": True}
        tasks["problem"]["model"]["hidden"] = [20]
        tasks["training"]["num_steps"] = 12
        tasks["meta"] |= {"num_iterations": 6, "evaluation_seeds": 1}
        made["tasks"] = tasks
    return made


def filled(service):
    """Real jobs that have ended, in the states that there are; ids by name."""
    ids = {
        name: service.post("/v1/jobs", json=spec).raise_for_status().json()["id"] for name, spec in jobs().items()
    }
    deadline = time.monotonic() + SECONDS
    while any(service.get(f"/v1/jobs/{one}").json()["state"] in ("queued", "running") for one in ids.values()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"jobs take more than {SECONDS} s")
        time.sleep(1)
    for number in range(24):
        name = f"sweep over step sizes, {number + 1} of 24"
        spec = document(
            {"name": name, "meta.step_size": 0.01 * (number + 1), "meta.num_iterations": 20 * (number + 1)}
        )
        one = service.post("/v1/jobs", json=spec).json()["id"]
        service.post(f"/v1/jobs/{one}/{'pause' if number % 3 else 'cancel'}")
    service.post(
        "/v1/datasets",
        data={"name": "prices of flats", "columns": json.dumps({"target": "price", "categorical": ["town"]})},
        files={"file": ("prices.csv", _TABLE)},
    ).raise_for_status()
    long = document({"name": "learning now", "training.num_steps": 400, "meta.num_iterations": 400})
    ids["running"] = service.post("/v1/jobs", json=long).json()["id"]
    while service.get(f"/v1/jobs/{ids['running']}").json()["progress"]["meta_iteration"] < 4:
        time.sleep(0.5)
    return ids


def mistake(page):
    page.locator('[data-path="meta.num_iterations"]').fill("-1")
    page.locator('[data-path="meta.num_iterations"]').press("Tab")
    page.get_by_role("button", name="Submit").click()
    page.get_by_role("alert").first.wait_for()


def plan(page):
    page.get_by_role("button", name="What would it take?").click()
    page.locator("#planned table, #mistakes:not([hidden])").first.wait_for(timeout=300_000)


def scrubbed(page):
    page.locator("#learned canvas").first.wait_for()
    page.get_by_role("slider").fill("5")
    page.get_by_text("Update 5 of").wait_for()


def preview(page):
    page.get_by_role("button", name="Look").first.click()
    page.locator("#look table").first.wait_for()


def documented(page):
    page.locator(".swagger-ui .opblock").first.wait_for(timeout=120_000)


def wrong_key(page):
    page.get_by_label("API key").fill("rg_wrong")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("alert").wait_for()


def states(ids):
    """Name → path, and what is done there."""
    found = {
        "list": ("/", None),
        "nothing-found": ("/?search=zebra", None),
        "job-running": (f"/jobs/{ids['running']}", None),
        "job-succeeded": (f"/jobs/{ids['schedules']}", scrubbed),
        "job-failed": (f"/jobs/{ids['failed']}", None),
        "job-penalties": (f"/jobs/{ids['penalties']}", scrubbed),
        "job-images": (f"/jobs/{ids['images']}", scrubbed),
        "compare": (f"/compare?job={ids['schedules']}&job={ids['penalties']}&job={ids['images']}", None),
        "new": ("/new", None),
        "new-plan": ("/new", plan),
        "new-mistake": ("/new", mistake),
        "data": ("/data", preview),
        "missing": ("/jobs/00000000-0000-0000-0000-000000000000", None),
        "docs": ("/docs", documented),
    }
    if "tasks" in ids:
        found["job-tasks"] = (f"/jobs/{ids['tasks']}", scrubbed)
    return found


def settled(page):
    """Until charts and figures are drawn, as far as there are any."""
    page.wait_for_load_state("load")
    page.evaluate("() => new Promise((done) => setTimeout(done, 600))")
    page.evaluate(
        """async () => {
          document.getElementById("pictures")?.scrollIntoView();
          for (let tries = 0; tries < 60; tries += 1) {
            const images = [...document.querySelectorAll(".pictures img")];
            const waits = document.querySelector("#pictures:not([hidden]) .pictures > p");
            if (images.every((one) => one.complete && one.naturalWidth) && !waits) break;
            await new Promise((done) => setTimeout(done, 250));
          }
          scrollTo(0, 0);
        }"""
    )


def taken(browser, url, key, wanted, folder):
    """Take all pictures; returns what is wrong."""
    script = Path(os.environ["AXE"]).read_text() if os.environ.get("AXE") else None
    wrong = []
    for scheme in SCHEMES:
        for size, viewport in SIZES.items():
            context = browser.new_context(
                base_url=url, color_scheme=scheme, viewport=viewport, bypass_csp=True, device_scale_factor=1
            )
            page = context.new_page()
            signed_in = False
            for name, (path, act) in wanted.items():
                if not signed_in and not name.startswith("sign-in"):
                    sign_in(page, key)
                    signed_in = True
                page.goto(path)
                if act is not None:
                    act(page)
                settled(page)
                page.screenshot(path=folder / f"{name}-{size}-{scheme}.png", full_page=True)
                wide = page.evaluate(
                    "document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"
                )
                if wide > 0:
                    wrong.append(f"{name} {size} {scheme}: {wide} pixels too wide")
                if script is not None and name != "docs":
                    page.evaluate(script)
                    for one in page.evaluate("axe.run()")["violations"]:
                        html = [node["html"][:150] for node in one["nodes"]][:2]
                        wrong.append(f"{name} {size} {scheme}: axe, {one['impact']}: {one['id']} {html}")
            context.close()
    return wrong


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.browser.look")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="retrograd-look-"))
    home.chmod(0o711)
    os.environ |= {f"RETROGRAD_RATE_LIMIT_{policy}": "" for policy in ("READS", "WRITES", "STRANGERS")}
    with (
        Stack(Home(home / "home"), port=0) as stack,
        httpx.Client(
            base_url=stack.url, headers={"Authorization": f"Bearer {stack.api_key}"}, timeout=60
        ) as service,
        sync_playwright() as running,
    ):
        browser = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)

        def chosen(found):
            return {name: one for name, one in found.items() if not options.only or name in options.only}

        first = {"sign-in": ("/login", None), "sign-in-wrong": ("/login", wrong_key), "list-empty": ("/", None)}
        wrong = taken(browser, stack.url, stack.api_key, chosen(first), options.folder) if chosen(first) else []
        wrong += taken(browser, stack.url, stack.api_key, chosen(states(filled(service))), options.folder)
        browser.close()
        service.post("/v1/jobs/cancel")
    print("\n".join(wrong) or "nothing is wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
