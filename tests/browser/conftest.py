"""A real browser, headless, against the API, and against the whole embedded stack."""

import os
import shutil
from pathlib import Path

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium; install it, or set CHROMIUM to its path")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, client):
    """A page of a reader who is not signed in. What a script of ours gets wrong fails the test."""
    context = browser.new_context(base_url=str(client.base_url))
    page = context.new_page()
    mistakes = []
    page.on("pageerror", lambda error: mistakes.append(str(error)))
    page.on(
        "console",
        lambda message: mistakes.append(message.text) if "Content Security Policy" in message.text else None,
    )
    yield page
    context.close()
    assert not mistakes


@pytest.fixture
def signed_in(page, key):
    page.goto("/login")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/")
    return page


@pytest.fixture(scope="session")
def axe():
    """The accessibility checker, which is no part of this repository: `npm pack axe-core` brings it."""
    path = os.environ.get("AXE")
    if not path:
        pytest.skip("set AXE to the path of axe.min.js")
    return Path(path).read_text()
