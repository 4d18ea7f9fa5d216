"""Fixtures and steps for tests in Chromium. Override ``base_url`` to test another page."""

from __future__ import annotations

import base64
import io
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from pycocotools import mask as coco_mask

from tests.web_client.conftest import serving, stub_config
from tests.web_client.samples import known_answers
from tests.web_client.stub import Stub, running_stub
from web_client.app import create_app

ARGUMENTS = shlex.split(
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
CANCEL = ".progress:not([hidden]) button:not([hidden])"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser per module: modules import this fixture, and only one Playwright loop may run at a time."""
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("needs Chromium (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def stub_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Stub]]:
    """The page in front of a stub that knows the masks of the sample pictures: (address, stub)."""
    with running_stub(tmp_path_factory.mktemp("stub")) as stub:
        stub.answers = known_answers()
        with serving(create_app(stub_config(stub))) as url:
            yield url, stub


@pytest.fixture(scope="module")
def base_url(request: pytest.FixtureRequest) -> str:
    """The address in ``SITE``, without a trailing slash, or a page in front of the stub."""
    site: str = os.environ.get("SITE") or request.getfixturevalue("stub_site")[0]
    return site


def visit(context: BrowserContext, url: str, troubles: list[str]) -> Page:
    """Open the page; collect console errors and requests to other hosts in ``troubles``."""
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.on("console", lambda message: message.type in ("error", "warning") and troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on(
        "request",
        lambda request: request.url.startswith((url, "blob:", "data:")) or troubles.append(request.url),
    )
    page.goto(url)
    page.wait_for_selector("#service-status[data-state=good]", state="attached")
    return page


@pytest.fixture
def page(chromium: Browser, base_url: str) -> Iterator[Page]:
    """The page at 1440 × 900. An error in the console or a request to another host fails the test."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900}, locale="en-GB")
    troubles: list[str] = []
    yield visit(context, base_url, troubles)
    context.close()
    assert troubles == []


def send(page: Page, *files: Path, by: str | None = None) -> dict[str, Any]:
    """Choose files, wait until the last is drawn, and return the reply to the first."""
    selector = by or ("#file" if page.locator("#upload").is_visible() else "#add")
    with page.expect_request("**/api/v1/predict") as asked:  # answers may come in another order
        page.set_input_files(selector, [str(path) for path in files])
    response = asked.value.response()
    assert response is not None
    reply: dict[str, Any] = response.json()
    settled(page)
    return reply


def sample(page: Page, name: str = "street") -> dict[str, Any]:
    """Click on a sample picture and return the reply."""
    with page.expect_response("**/api/v1/predict") as waiting:
        page.locator(f"#upload [value={name}]").click()
    reply: dict[str, Any] = waiting.value.json()
    settled(page)
    return reply


def settled(page: Page) -> None:
    """Wait until no request is in progress and its result is drawn."""
    until(page, "document.querySelector('.viewer') && !document.querySelector('.thumbnail .spinner')")
    until(
        page, f"![...document.querySelectorAll('{CANCEL}')].some(button => button.textContent === 'Cancel')"
    )
    frames(page)


def until(page: Page, expression: str, seconds: float = 15) -> None:
    """Wait for a JavaScript expression. (The page's policy forbids Playwright's wait_for_function.)"""
    end = time.monotonic() + seconds
    while not page.evaluate(f"Promise.resolve({expression}).then(Boolean)"):
        assert time.monotonic() < end, f"never came true: {expression}"
        page.wait_for_timeout(50)


def frames(page: Page) -> None:
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def slide(page: Page, selector: str, value: float) -> None:
    page.locator(selector).fill(str(value))
    frames(page)


def canvas_pixels(page: Page, pane: int = 0) -> np.ndarray:
    """The canvas: (H, W, 4) uint8."""
    encoded = page.evaluate(
        "(index) => document.querySelectorAll('.viewer canvas')[index].toDataURL('image/png')", pane
    )
    with Image.open(io.BytesIO(base64.b64decode(encoded.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGBA"))


def masks_of(reply: dict[str, Any], threshold: float = 0.5) -> np.ndarray:
    """(N, H, W) bool, the masks that reach the threshold."""
    chosen = [entry for entry in reply["instances"] if entry["score"] >= threshold]
    size = (reply["image"]["height"], reply["image"]["width"])
    return np.array([coco_mask.decode(entry["mask"]).astype(bool) for entry in chosen]).reshape(-1, *size)
