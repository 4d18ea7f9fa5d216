"""How the page looks: axe finds no violations, nothing overflows, and screenshots for the README.

    export SITE=http://127.0.0.1:5000 SCREENSHOTS=web_client/page/screenshots
    python -m pytest tests/web_client/test_looks.py

writes the screenshots (WebP) of a page in front of a real model; without ``SITE`` their numbers are the stub's.
Without ``SCREENSHOTS`` they go to a temporary folder.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page

from tests.web_client import browser
from tests.web_client.browser import frames, sample, send, settled, slide, until, visit
from tests.web_client.samples import FOLDER

pytestmark = pytest.mark.browser
chromium, stub_site, base_url = browser.chromium, browser.stub_site, browser.base_url

SIZES = ((360, 740), (800, 1000), (1440, 900))


def empty(page: Page) -> None:
    pass


def work(page: Page) -> None:
    sample(page, "wall")
    send(page, FOLDER / "window.webp", FOLDER / "street.webp")
    page.locator("#objects [type=checkbox]").nth(2).uncheck()
    page.locator(".class-name").nth(1).focus()
    page.check("#flag")
    frames(page)


def splash(page: Page) -> None:
    sample(page, "window")
    page.locator("input[value=splash]").check(force=True)
    slide(page, "#wipe", 0.35)


def two(page: Page) -> None:
    sample(page, "wall")
    page.check("#compare")
    settled(page)


def trouble(page: Page) -> None:
    sample(page, "window")
    page.set_input_files("#add", {"name": "notes.jpg", "mimeType": "image/jpeg", "buffer": b"text"})
    until(page, "!document.querySelector('#workspace-error').hidden")
    page.context.set_offline(True)
    page.set_input_files("#add", str(FOLDER / "street.webp"))
    until(page, "document.querySelector('.progress.bad:not([hidden])')")


# test → file for the README
KEPT = {
    "work-1440px-light": "overlay.webp",
    "splash-1440px-dark": "splash.webp",
    "two-1440px-light": "two_models.webp",
    "splash-360px-light": "phone.webp",
}
STATES: tuple[Callable[[Page], None], ...] = (empty, work, splash, two, trouble)


@pytest.fixture
def context(chromium: Browser, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    (width, height), scheme = request.param
    phone = width < 500
    made = chromium.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        has_touch=phone,
        is_mobile=phone,
        device_scale_factor=2 if phone else 1,
        locale="en-GB",
    )
    yield made
    made.close()


EVERYWHERE = pytest.mark.parametrize(
    "context",
    [*((size, "light") for size in SIZES), (SIZES[-1], "dark")],
    ids=lambda value: f"{value[0][0]}px-{value[1]}",
    indirect=True,
)


@EVERYWHERE
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_axe_finds_nothing_and_nothing_overflows(
    context: BrowserContext,
    base_url: str,
    state: Callable[[Page], None],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    page = visit(context, base_url, [])
    state(page)
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    name = KEPT.get(request.node.callspec.id)
    if name:
        folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)
        folder.mkdir(parents=True, exist_ok=True)
        page.evaluate("scrollTo(0, 0); document.querySelector('.sidebar').scrollTo(0, 0)")
        with Image.open(io.BytesIO(page.screenshot())) as image:
            image.convert("RGB").save(folder / name, quality=80, method=6)


@EVERYWHERE
def test_axe_on_the_answer_without_javascript(context: BrowserContext, base_url: str) -> None:
    """axe needs scripts, so this bypasses the page's own and submits the form."""
    page = visit(context, base_url, [])
    script = """() => {
        const field = Object.assign(document.createElement("input"), {name: "sample", value: "street"});
        const form = document.querySelector("#upload");
        form.append(field);
        form.submit();
    }"""
    page.evaluate(script)
    page.wait_for_selector("img.overlay-image")
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
