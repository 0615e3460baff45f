"""Real jobs on the embedded stack, in a real browser: made, followed, failed, paused, cut off, downloaded, made again."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.browser.conftest import reading, sign_in
from tests.browser.relay import Relay
from tests.builders import document, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LEARNS_WITHIN = 420_000  # milliseconds: the first job of a worker loads and compiles
SHORT = {"training.num_steps": 20, "meta.num_iterations": 8, "meta.evaluation_seeds": 1}
LONG = {"training.num_steps": 60, "meta.num_iterations": 60, "meta.evaluation_seeds": 1}
ENDED = ("succeeded", "failed", "cancelled")


def make(service, changes):
    answer = service.post("/v1/jobs", json=document(changes))
    answer.raise_for_status()
    return answer.json()["id"]


def read(service, job):
    return service.get(f"/v1/jobs/{job}").json()


def after(service, job, iterations):
    """Once it has come so far."""
    return eventually(lambda: read(service, job)["progress"]["meta_iteration"] >= iterations, LEARNS_WITHIN / 1000)


@pytest.fixture(scope="module")
def learned(service):
    """A job that has succeeded."""
    job = make(service, SHORT | {"name": "learned before"})
    eventually(lambda: read(service, job)["state"] in ENDED, LEARNS_WITHIN / 1000)
    assert read(service, job)["state"] == "succeeded"
    return job


def fill(page, **fields):
    """Fields of the form, by path with __ for dots."""
    for path, value in fields.items():
        box = page.locator(f'[data-path="{path.replace("__", ".")}"]')
        box.fill(str(value))
        box.press("Tab")


def submitted(page):
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/jobs/*")
    return page.url.rpartition("/")[2]


def numbers_told(page):
    """Of the events that the page shows, from the first on."""
    return page.evaluate(
        "[...document.querySelectorAll('#log li')].map((one) => Number(one.dataset.number)).reverse()"
    )


def events_of(service, job):
    return [one["number"] for one in service.get(f"/v1/jobs/{job}/events?limit=100").json()["data"]]


def wait_for_state(page, state):
    page.locator("#facts .state.large", has_text=state).wait_for(timeout=LEARNS_WITHIN)


def test_a_job_is_made_by_the_form_and_followed_to_its_end(reader, service):
    reader.goto("/new?preset=digits-schedules")
    fill(
        reader,
        name="made by the form",
        training__num_steps=40,
        meta__num_iterations=40,
        meta__evaluation_seeds=1,
    )
    job = submitted(reader)
    reader.evaluate(
        """() => {
          window.states = new Set(); window.lengths = new Set();
          const note = () => {
            window.states.add(document.querySelector("#facts .state.large").textContent);
            window.lengths.add(document.getElementById("losses").chart?.data[0].length ?? 0);
          };
          new MutationObserver(note).observe(document.body, { childList: true, subtree: true });
          document.addEventListener("retrograd:drawn", note);
        }"""
    )
    wait_for_state(reader, "running")
    reader.locator("#losses canvas").wait_for(timeout=LEARNS_WITHIN)
    reader.locator('[data-view="step_size"] canvas').wait_for(timeout=LEARNS_WITHIN)
    wait_for_state(reader, "succeeded")
    reader.locator("#facts").get_by_text("exact", exact=True).wait_for()
    reader.locator("#facts").get_by_text("0 bits differ").wait_for()
    reader.get_by_role("img", name="bits stored for each parameter and step").wait_for()
    reader.wait_for_function("() => document.getElementById('losses').chart.data[0].length === 40")
    assert {"running", "succeeded"} <= set(reader.evaluate("[...window.states]"))
    assert len(reader.evaluate("[...window.lengths]")) > 2, "the curve came at once"
    reader.get_by_text("Update 40 of 40", exact=True).wait_for()  # the slider has followed
    assert numbers_told(reader) == events_of(service, job)
    assert read(service, job)["spec"]["training"]["num_steps"] == 40


def test_a_job_that_diverges_says_so_and_is_tried_again(reader, service):
    reader.goto("/new?preset=digits-schedules")
    reader.locator("#json").fill(json.dumps(document(SHORT | {"hyperparameters.step_size.initial": 1e9})))
    reader.locator("#json").blur()
    job = submitted(reader)
    wait_for_state(reader, "failed")
    reader.get_by_role("alert").get_by_text("diverged").first.wait_for()
    message = read(service, job)["error"]["message"]
    reader.get_by_role("alert").get_by_text(message).wait_for()
    reader.get_by_role("button", name="Retry").click()
    reader.locator("#facts").get_by_text("attempt 2").wait_for(timeout=LEARNS_WITHIN)
    wait_for_state(reader, "failed")


def test_a_running_job_is_paused_and_goes_on(reader, service):
    endless = LONG | {"meta.num_iterations": 1000}  # nowhere near its end when it is cancelled
    job = make(service, endless | {"name": "paused"})
    reader.goto(f"/jobs/{job}")
    after(service, job, 2)
    reader.get_by_role("button", name="Pause").click()
    wait_for_state(reader, "paused")
    stood = read(service, job)["progress"]["meta_iteration"]
    assert 0 < stood < endless["meta.num_iterations"]
    reader.get_by_role("button", name="Resume").click()
    wait_for_state(reader, "running")
    after(service, job, stood + 1)
    reader.get_by_role("button", name="Cancel").click()
    wait_for_state(reader, "cancelled")
    told = numbers_told(reader)
    assert told == events_of(service, job)[-len(told) :]


def test_what_happened_while_the_connection_was_lost_is_told_once(browser, stack, service):
    relay = Relay(stack.port)
    job = make(service, LONG | {"name": "cut off"})
    with reading(browser, relay.url) as page:
        sign_in(page, stack.api_key)
        page.goto(f"/jobs/{job}")
        wait_for_state(page, "running")
        page.locator("#log").get_by_text("iteration").first.wait_for(timeout=LEARNS_WITHIN)
        relay.cut()
        page.locator("#lost").wait_for(state="visible", timeout=30_000)
        seen = read(service, job)["progress"]["meta_iteration"]
        after(service, job, seen + 3)
        assert page.locator("#lost").is_visible()
        relay.mend()
        page.locator("#lost").wait_for(state="hidden", timeout=60_000)
        wait_for_state(page, "succeeded")
        page.wait_for_function(
            "last => Number(document.querySelector('#log li').dataset.number) === last",
            arg=events_of(service, job)[-1],
        )
        assert numbers_told(page) == events_of(service, job)
    relay.close()


def test_what_is_downloaded_holds_what_was_learned(reader, service, learned):
    reader.goto(f"/jobs/{learned}")
    with reader.expect_download() as waited:
        reader.get_by_role("link", name="Values as JSON").click()
    saved = json.loads(waited.value.path().read_text())
    with reader.expect_download() as waited:
        reader.get_by_role("link", name="as NumPy arrays").click()
    best = read(service, learned)["best_iteration"]
    told = service.get(f"/v1/jobs/{learned}/hyperparameters?iteration={best}").json()["hyperparameters"]
    with np.load(io.BytesIO(waited.value.path().read_bytes()), allow_pickle=False) as arrays:
        for name, one in told.items():
            values = np.array(one["values"], float)
            assert np.array_equal(values, np.array(saved["hyperparameters"][name]["values"], float))
            assert np.array_equal(values, arrays[name])
    assert not np.allclose(told["step_size"]["values"], 0.3), "nothing was learned"


@pytest.mark.parametrize("language", ["curl command", "Python program"])
def test_what_is_copied_makes_the_job_again(reader, stack, service, learned, language, tmp_path):
    reader.goto(f"/jobs/{learned}")
    reader.get_by_text("Again by curl" if "curl" in language else "Again in Python").click()
    reader.get_by_role("button", name=f"Copy the {language}").click()
    reader.get_by_text("Copied.").wait_for()
    copied = reader.evaluate("navigator.clipboard.readText()")
    before = {one["id"] for one in service.get("/v1/jobs?limit=100").json()["data"]}
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RETROGRAD_")}
    environ |= {"RETROGRAD_API_KEY": stack.api_key, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = ["sh", "-c", copied] if "curl" in language else [sys.executable, "-c", copied]
    ran = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    made = {one["id"] for one in service.get("/v1/jobs?limit=100").json()["data"]} - before
    assert len(made) == 1, ran.stdout
    assert read(service, made.pop())["spec"] == read(service, learned)["spec"]
