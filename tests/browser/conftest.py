"""A real browser, headless, against the API, and against the whole embedded stack."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from retrograd.home import Home
from retrograd.local.stack import Stack

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


@contextmanager
def reading(browser, url, **options):
    """A page in a context of its own. What a script of ours gets wrong fails the test."""
    context = browser.new_context(base_url=url, **options)
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


def sign_in(page, key):
    page.goto("/login")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/")
    return page


@pytest.fixture
def page(browser, client):
    """Of a reader who is not signed in."""
    with reading(browser, str(client.base_url)) as page:
        yield page


@pytest.fixture
def signed_in(page, key):
    return sign_in(page, key)


@pytest.fixture(scope="session")
def stack(browser, tmp_path_factory):
    """The embedded stack, with a worker that learns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETROGRAD_HEARTBEAT_SECONDS", "0.5")  # how soon a running job hears that it is to pause
        for policy in ("READS", "WRITES", "STRANGERS"):
            patch.setenv(f"RETROGRAD_RATE_LIMIT_{policy}", "")  # tests hurry
        with Stack(Home(tmp_path_factory.mktemp("stack") / "home"), port=0) as stack:
            yield stack


@pytest.fixture(scope="session")
def service(stack):
    """Its API, for who holds the key."""
    headers = {"Authorization": f"Bearer {stack.api_key}"}
    with httpx.Client(base_url=stack.url, headers=headers, timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture
def reader(browser, stack):
    """A page of the stack, signed in, that may use the clipboard."""
    with reading(browser, stack.url, permissions=["clipboard-read", "clipboard-write"]) as page:
        yield sign_in(page, stack.api_key)


@pytest.fixture(scope="session")
def axe():
    """The accessibility checker, which is no part of this repository: `npm pack axe-core` brings it."""
    path = os.environ.get("AXE")
    if not path:
        pytest.skip("set AXE to the path of axe.min.js")
    return Path(path).read_text()
