"""Every page and what can be done on it, in a real browser. What a worker does is done here through the store."""

import json
import math
import re
from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest

from core.store import leases
from tests.api.test_jobs import FOUND, work
from tests.builders import claim, document, record, values

pytestmark = pytest.mark.slow


@pytest.fixture
def job(client):
    return client.post("/v1/jobs", json=document({"name": "first of all"})).json()


def test_a_stranger_is_sent_to_sign_in_and_comes_back(page, client, key, job):
    page.goto(f"/jobs/{job['id']}")
    assert "/login" in page.url
    page.get_by_label("API key").fill("rg_wrong")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("no key of this server").wait_for()
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="first of all").wait_for()
    (cookie,) = page.context.cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    page.get_by_role("button", name="Sign out").click()
    page.goto("/")
    assert "/login" in page.url


def test_without_jobs_the_list_says_how_to_make_one(signed_in):
    signed_in.get_by_role("heading", name="No jobs yet").wait_for()
    signed_in.get_by_role("link", name="learn 1608 hyperparameters").click()
    signed_in.get_by_role("heading", name="New job").wait_for()


def test_jobs_are_found_by_name_and_state(signed_in, client):
    for name in ("alpha", "beta 100%", "gamma_1"):
        client.post("/v1/jobs", json=document({"name": name}))
    signed_in.goto("/")
    signed_in.get_by_role("searchbox").fill("100%")  # shown as it is typed
    signed_in.get_by_role("link", name="alpha").wait_for(state="detached")
    signed_in.get_by_role("link", name="beta 100%").wait_for()
    assert signed_in.get_by_role("row").count() == 2
    signed_in.get_by_text("One job is shown").wait_for(state="attached")
    signed_in.reload()
    assert signed_in.get_by_role("searchbox").input_value() == "100%", "the address says what is shown"
    signed_in.get_by_role("searchbox").fill("")
    signed_in.get_by_role("link", name="alpha").wait_for()
    signed_in.get_by_label("State").select_option("succeeded")
    signed_in.get_by_text("No job is like that").wait_for()


def test_the_list_lives(signed_in, client):
    signed_in.goto("/")
    client.post("/v1/jobs", json=document({"name": "made meanwhile"}))
    signed_in.get_by_role("link", name="made meanwhile").wait_for(timeout=10_000)


def test_a_job_is_followed_as_it_learns(signed_in, client, sessions, job):
    signed_in.goto(f"/jobs/{job['id']}")
    facts = signed_in.locator("#facts")
    facts.get_by_text("queued", exact=True).wait_for()
    work(sessions, job, iterations=2, finish=False)
    facts.get_by_text("running", exact=True).wait_for()
    facts.get_by_text("2 of 4 meta-iterations").wait_for()
    signed_in.locator("#log").get_by_text("iteration").first.wait_for()
    signed_in.locator("#losses canvas").wait_for()
    numbers = signed_in.locator("section", has=signed_in.get_by_role("heading", name="Losses"))
    numbers.get_by_text("In numbers").click()
    numbers.get_by_role("rowheader", name="outer", exact=True).wait_for()


def test_what_is_pressed_or_focused_stays_while_the_page_lives(signed_in, client, sessions, job):
    lease = claim(sessions, UUID(job["id"]))
    with sessions.begin() as session:
        leases.save_start(session, lease, record(0).values, {"initial": FOUND}, {"device": "cpu"})
    signed_in.goto(f"/jobs/{job['id']}")
    pause = signed_in.get_by_role("button", name="Pause")
    pause.hover()
    signed_in.mouse.down()
    signed_in.get_by_role("button", name="Cancel").focus()
    for number in range(2):
        with sessions.begin() as session:
            leases.save_iteration(session, lease, record(number))
        signed_in.locator("#facts").get_by_text(f"{number + 1} of 4 meta-iterations").wait_for()
    assert signed_in.evaluate("document.activeElement.id") == "cancel"
    signed_in.mouse.up()
    signed_in.get_by_text("will be paused").wait_for()


def test_nothing_chosen_is_not_compared(signed_in, job):
    signed_in.goto("/")
    signed_in.get_by_role("button", name="Compare chosen").click()
    signed_in.get_by_text("Choose jobs first").wait_for()
    assert signed_in.url.endswith("/")
    signed_in.get_by_role("checkbox").first.check()
    signed_in.get_by_role("button", name="Compare chosen").click()
    signed_in.wait_for_url("**/compare?**")


def test_pictures_are_drawn(signed_in, sessions, job):
    work(sessions, job)
    signed_in.goto(f"/jobs/{job['id']}")
    signed_in.get_by_role("heading", name="Figures").scroll_into_view_if_needed()
    image = signed_in.locator('[data-name="learning_curves"] img')
    image.wait_for()
    signed_in.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image.element_handle())


def test_a_lost_connection_is_told_and_made_again(signed_in, client, sessions, job):
    signed_in.goto(f"/jobs/{job['id']}")
    signed_in.locator("#facts").get_by_text("queued", exact=True).wait_for()
    signed_in.context.set_offline(True)
    signed_in.locator("#lost").wait_for(state="visible", timeout=30_000)
    work(sessions, job, iterations=1, finish=False)
    signed_in.context.set_offline(False)
    signed_in.locator("#lost").wait_for(state="hidden", timeout=30_000)
    signed_in.locator("#facts").get_by_text("1 of 4 meta-iterations").wait_for()


def test_cancel_retry_pause_resume_delete(signed_in, client, job):
    signed_in.on("dialog", lambda dialog: dialog.accept())
    signed_in.goto(f"/jobs/{job['id']}")
    facts = signed_in.locator("#facts")
    for button, state in (
        ("Pause", "paused"),
        ("Resume", "queued"),
        ("Cancel", "cancelled"),
        ("Retry", "queued"),
        ("Cancel", "cancelled"),
    ):
        facts.get_by_role("button", name=button).click()
        facts.get_by_text(state, exact=True).wait_for()
        assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == state
    facts.get_by_role("button", name="Delete").click()
    signed_in.wait_for_url("**/")
    assert client.get(f"/v1/jobs/{job['id']}").status_code == 404


def test_a_failed_job_says_why(signed_in, client, sessions, job):
    lease = claim(sessions, UUID(job["id"]))
    with sessions.begin() as session:
        leases.fail(session, lease, "diverged", "training diverged at step 3; lower the step size", {"step": 3})
    signed_in.goto(f"/jobs/{job['id']}")
    signed_in.get_by_role("alert").get_by_text("diverged").first.wait_for()
    signed_in.get_by_text("diverged, training diverged at step 3; lower the step size").wait_for()
    signed_in.locator("#losses").wait_for(state="hidden")  # there is nothing to draw


def test_weights_and_biases_of_a_layer_share_a_colour(signed_in, sessions, job):
    work(sessions, job, iterations=2)
    signed_in.goto(f"/jobs/{job['id']}")
    legend = signed_in.get_by_role("article", name="step size").locator(".u-legend")
    for name, dashed in (("layer 1.weights", False), ("layer 1.biases", True)):
        legend.get_by_text(name, exact=True).wait_for()
        marker = legend.locator("tr", has_text=name).locator(".u-marker")
        background = marker.evaluate("one => one.style.background")
        assert "rgb(31, 111, 224)" in background
        assert ("gradient" in background) == dashed


def test_what_is_learned_is_scrubbed_through_its_meta_iterations(signed_in, client, sessions, job):
    work(sessions, job, iterations=2)
    signed_in.goto(f"/jobs/{job['id']}")
    schedule = signed_in.get_by_role("article", name="step size")
    schedule.locator("canvas").wait_for()
    signed_in.get_by_role("article", name="momentum").locator("canvas").wait_for()
    signed_in.get_by_text("Update 2 of 2", exact=True).wait_for()
    schedule.get_by_text("In numbers").click()
    for iteration in (0, 1, 2):
        signed_in.get_by_role("slider").fill(str(iteration))
        signed_in.get_by_text(f"Update {iteration} of 2", exact=True).wait_for()
        schedule.get_by_role("cell", name=f"{math.exp(values(iteration)['step_size'][0, 0]):.4g}").first.wait_for()
    signed_in.get_by_role("button", name="Best").click()
    signed_in.get_by_text("Update 1 of 2", exact=True).wait_for()
    signed_in.get_by_role("slider").press("ArrowLeft")
    signed_in.get_by_text("Update 0 of 2", exact=True).wait_for()
    signed_in.get_by_role("button", name="Play").click()
    signed_in.get_by_text("Update 2 of 2", exact=True).wait_for()
    signed_in.get_by_role("button", name="Play").wait_for()


IMAGES = {
    "name": "a penalty for each weight",
    "training.num_steps": 5,
    "hyperparameters": {"l2": {"learn": True, "per": ["weight"], "initial": 0.01}},
    "meta.num_iterations": 2,
}


def test_learned_numbers_are_images_with_a_legend_and_a_table(signed_in, client, sessions):
    """An image for each class, of as many pixels as the data have; painted anew for each meta-iteration."""
    made = client.post("/v1/jobs", json=document(IMAGES)).json()
    lease = claim(sessions, UUID(made["id"]))
    penalties = [np.full(650, -4.6), np.linspace(-9, 2, 650), np.linspace(2, -9, 650)]
    with sessions.begin() as session:
        leases.save_start(session, lease, {"l2": penalties[0]}, {"initial": FOUND}, {"device": "cpu"})
        for number in range(2):
            one = record(number)
            after = replace(one.checkpoint, values={"l2": penalties[number + 1]}, optimizer_state=[])
            saved = replace(one, values={"l2": penalties[number]}, checkpoint=after)
            leases.save_iteration(session, lease, saved)
    signed_in.goto(f"/jobs/{made['id']}")
    view = signed_in.get_by_role("article", name="l2")
    first = view.get_by_role("img", name=re.compile("l2, class 0: 8 × 8 values from"))
    first.wait_for()
    assert view.locator(".sheets canvas").count() == 10
    assert view.locator(".legend canvas").count() == 1
    pixels = "canvas => [...canvas.getContext('2d').getImageData(0, 0, 8, 8).data]"
    last = first.evaluate(pixels)
    assert first.evaluate("canvas => canvas.width") == 8
    signed_in.get_by_role("slider").fill("1")
    signed_in.get_by_text("Update 1 of 2", exact=True).wait_for()
    signed_in.wait_for_function(
        "([canvas, last]) => String([...canvas.getContext('2d').getImageData(0, 0, 8, 8).data]) !== String(last)",
        arg=[first.element_handle(), last],
    )
    view.get_by_text("In numbers").click()
    shown = np.exp(penalties[1][:640].reshape(64, 10)[:, 0])
    view.get_by_role("row", name=re.compile("^class 0")).get_by_role("cell", name=f"{shown.max():.4g}").wait_for()
    first.hover(position={"x": 1, "y": 1})
    view.get_by_text("class 0, row 1, column 1").wait_for()


def test_images_seen_before_have_the_scale_of_what_came_since(signed_in, client, sessions):
    made = client.post("/v1/jobs", json=document(IMAGES | {"meta.num_iterations": 3})).json()
    lease = claim(sessions, UUID(made["id"]))
    penalties = [np.full(650, -4.6), np.linspace(-6, -3, 650), np.linspace(-9, 2, 650)]

    def learn(number):
        one = record(number)
        after = replace(one.checkpoint, values={"l2": penalties[number + 1]}, optimizer_state=[])
        with sessions.begin() as session:
            saved = replace(one, values={"l2": penalties[number]}, checkpoint=after)
            leases.save_iteration(session, lease, saved)

    def scale_at(iteration):
        signed_in.get_by_role("slider").fill(str(iteration))
        signed_in.wait_for_function("iteration => window.drawn === iteration", arg=iteration)
        return signed_in.get_by_role("article", name="l2").locator(".ticks").inner_text()

    with sessions.begin() as session:
        leases.save_start(session, lease, {"l2": penalties[0]}, {"initial": FOUND}, {"device": "cpu"})
    learn(0)
    signed_in.goto(f"/jobs/{made['id']}")
    signed_in.evaluate(
        "document.addEventListener('retrograd:drawn', (event) => { window.drawn = event.detail.iteration ?? window.drawn; })"
    )
    signed_in.get_by_text("Update 1 of 1", exact=True).wait_for()
    signed_in.get_by_role("article", name="l2").locator(".ticks").wait_for()
    before = scale_at(0)
    assert scale_at(1) == before
    scale_at(0)
    learn(1)
    signed_in.locator("#facts").get_by_text("2 of 3 meta-iterations").wait_for()
    signed_in.wait_for_function("() => document.getElementById('scrub').max === '2'")
    after = scale_at(1)
    assert after != before
    assert scale_at(2) == scale_at(0) == after


def test_what_was_learned_is_downloaded(signed_in, client, sessions, job):
    work(sessions, job)
    signed_in.goto(f"/jobs/{job['id']}")
    with signed_in.expect_download() as waited:
        signed_in.get_by_role("link", name="Values as JSON").click()
    saved = json.loads(waited.value.path().read_text())
    assert saved["job_id"] == job["id"]
    with signed_in.expect_download() as waited:
        signed_in.get_by_role("link", name="Curves as CSV").click()
    assert waited.value.suggested_filename == f"retrograd-{job['id']}-curves.csv"
    assert waited.value.path().read_text().startswith("iteration,outer_loss,")


def test_jobs_are_compared(signed_in, client, sessions):
    for name, size in (("small step", 0.04), ("large step", 0.2)):
        made = client.post("/v1/jobs", json=document({"name": name, "meta.step_size": size})).json()
        work(sessions, made)
    signed_in.goto("/")
    for box in signed_in.get_by_role("checkbox").all():
        box.check()
    signed_in.get_by_role("button", name="Compare chosen").click()
    signed_in.get_by_role("cell", name="meta.step_size").or_(
        signed_in.get_by_role("rowheader", name="meta.step_size")
    ).wait_for()
    signed_in.locator("canvas").wait_for()


def test_data_are_sent_and_looked_at(signed_in, tmp_path):
    (tmp_path / "prices.csv").write_text(
        "size,town,price\n" + "".join(f"{n},{'ab'[n % 2]},{n * 2.5}\n" for n in range(20))
    )
    signed_in.goto("/data")
    signed_in.get_by_label("Name").fill("prices")
    signed_in.get_by_label("File").set_input_files(tmp_path / "prices.csv")
    signed_in.get_by_label("Target column").fill("price")
    signed_in.get_by_label("Categorical columns").fill("town")
    signed_in.get_by_role("button", name="Upload").click()
    signed_in.locator("#preview table, #mistakes:not([hidden])").first.wait_for(timeout=60_000)
    assert signed_in.locator("#mistakes").text_content() == ""
    signed_in.locator("#preview").get_by_text("town").first.wait_for()
    signed_in.goto("/data")
    signed_in.get_by_role("button", name="Look").click()
    signed_in.locator("#look").get_by_role("heading", name="Columns").wait_for()


def test_a_page_of_another_project_is_not_there(page, stranger, job):
    key = stranger.headers["Authorization"].removeprefix("Bearer ")
    page.goto("/login")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/")
    page.goto(f"/jobs/{job['id']}")
    page.get_by_role("heading", name="Not here").wait_for()


PAGES = [
    "/login",
    "/",
    "/jobs/{job}",
    "/compare?job={job}",
    "/new",
    "/data",
    "/jobs/00000000-0000-0000-0000-000000000000",
]


_TAGGED = """() => {
  const all = "a[href], button:not([disabled]), input:not([type=hidden]):not([disabled]), select, textarea, summary, [tabindex='0']";
  const seen = [...document.querySelectorAll(all)].filter((one) => one.checkVisibility());
  seen.forEach((one, at) => { one.dataset.reached = at; });
  return seen.map((one) => one.outerHTML.slice(0, 90));
}"""
_FOCUSED = """() => {
  const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
  return [document.activeElement.dataset.reached ?? null, outlineStyle !== "none" && parseFloat(outlineWidth) > 0];
}"""


@pytest.mark.parametrize("path", PAGES)
def test_all_is_reached_by_the_keyboard_and_its_focus_is_seen(signed_in, sessions, job, path):
    work(sessions, job)
    signed_in.goto(path.format(job=job["id"]))
    signed_in.wait_for_load_state("networkidle")
    there = signed_in.evaluate(_TAGGED)
    reached, unseen = set(), []
    for _ in range(len(there) + 3):
        signed_in.keyboard.press("Tab")
        at, is_seen = signed_in.evaluate(_FOCUSED)
        if at is not None:
            reached.add(int(at))
            unseen += [] if is_seen else [there[int(at)]]
    assert [there[at] for at in range(len(there)) if at not in reached] == []
    assert unseen == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, client, key, sessions, job, scheme, axe):
    work(sessions, job)
    context = browser.new_context(base_url=str(client.base_url), color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto("/login")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/")
    found = {}
    for path in PAGES:
        page.goto(path.format(job=job["id"]))
        page.wait_for_load_state("networkidle")
        page.evaluate(axe)
        violations = page.evaluate("axe.run()")["violations"]
        found[path] = [
            (one["id"], [node["html"][:120] for node in one["nodes"]][:3])
            for one in violations
            if one["impact"] in ("serious", "critical")
        ]
    context.close()
    assert not any(found.values()), found
