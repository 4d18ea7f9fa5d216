"""The page while it waits, when things go wrong, and with many users at once, in front of the stub."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, Route

from tests.web_client import browser
from tests.web_client.browser import frames, masks_of, sample, send, settled, slide, until, visit
from tests.web_client.conftest import serving, stub_config
from tests.web_client.samples import FOLDER
from tests.web_client.stub import Stub, balloon_picture, instance
from web_client.app import create_app
from web_client.server.tokens import TokenFile

pytestmark = pytest.mark.browser
chromium, stub_site, base_url = browser.chromium, browser.stub_site, browser.base_url

Open = Callable[..., Page]


@pytest.fixture
def stub(stub_site: tuple[str, Stub]) -> Iterator[Stub]:
    stub = stub_site[1]
    versions = dict(stub.versions)
    yield stub
    stub.mode, stub.delay, stub.versions = "ok", 0.0, versions


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Open]:
    """Opens an empty page with the given options of a context."""
    contexts = []

    def opened(**options: Any) -> Page:
        contexts.append(chromium.new_context(viewport={"width": 1440, "height": 900}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(15_000)
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture
def page(chromium: Browser, base_url: str) -> Iterator[Page]:
    """Failed requests are expected here, and Chromium logs them; anything else in the console fails the test."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900}, locale="en-GB")
    troubles: list[str] = []
    yield visit(context, base_url, troubles)
    context.close()
    assert [trouble for trouble in troubles if not re.match(r"Failed to load resource: ", trouble)] == []


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "party.png"
    path.write_bytes(balloon_picture(400, 300))
    return path


def payload(name: str, data: bytes) -> FilePayload:
    return {"name": name, "mimeType": "image/jpeg", "buffer": data}


def noisy(side: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def state(page: Page) -> str:
    return page.locator(".progress").first.inner_text()


def failure(page: Page) -> str:
    """What the box over the picture says, as soon as the request has failed."""
    until(page, "document.querySelector('.progress.bad:not([hidden])')")
    return state(page)


def wait_for(page: Page, start: str) -> None:
    """Wait until the box over the picture has a text that begins like this."""
    until(page, f"document.querySelector('.progress p')?.textContent.startsWith('{start}')")


def wait_for_status(page: Page, words: str) -> None:
    until(page, f"document.querySelector('#service-status').textContent.includes('{words}')")


def count(page: Page) -> str:
    return page.locator("#count").inner_text()


def labels(page: Page) -> list[str | None]:
    return [tile.get_attribute("aria-label") for tile in page.locator(".thumbnail").all()]


class TestWaiting:
    def test_elapsed_time_runs(self, page: Page, stub: Stub, picture: Path) -> None:
        stub.delay = 3.0
        page.set_input_files("#file", picture)
        wait_for(page, "Looking for objects, 0.")
        assert page.locator(".viewer canvas").is_visible()  # the picture is there at once
        assert page.locator("#share").inner_text() == "–"
        assert page.locator("[data-download=overlay]").is_disabled()
        first = state(page)
        page.wait_for_timeout(250)
        assert state(page) != first
        settled(page)
        assert page.locator(".progress").is_hidden()

    def test_cancel_and_try_again(self, page: Page, stub: Stub, picture: Path) -> None:
        stub.delay = 2.0
        page.set_input_files("#file", picture)
        page.get_by_role("button", name="Cancel").click()
        assert "Canceled" in state(page)
        page.wait_for_timeout(2200)
        assert page.locator("#share").inner_text() == "–"  # the late answer was dropped
        stub.delay = 0
        page.get_by_role("button", name="Try again").click()
        settled(page)
        assert count(page) == "1"

    def test_a_second_picture_while_the_first_is_running(self, page: Page, stub: Stub) -> None:
        stub.delay = 1.0
        two = balloon_picture(400, 300, [(100, 100, 40), (250, 100, 40)])
        page.set_input_files("#file", payload("slow.png", two))
        wait_for(page, "Looking")
        stub.delay = 0
        page.set_input_files("#add", payload("quick.png", balloon_picture(300, 300, [(100, 100, 40)])))
        until(page, "document.querySelector('#count').textContent === '1'")
        assert "quick.png" in page.locator(".caption").inner_text()
        settled(page)  # the slow answer arrives now
        assert count(page) == "1"
        assert labels(page) == ["slow.png: 2 found", "quick.png: 1 found"]
        page.locator(".thumbnail").first.click()
        frames(page)
        assert count(page) == "2"

    def test_a_stale_answer_of_the_same_picture_is_dropped(
        self, page: Page, stub: Stub, picture: Path
    ) -> None:
        send(page, picture)
        stub.delay = 0.8
        page.select_option("#version", "resnet50_fpn")
        page.wait_for_timeout(100)
        page.select_option("#version", "mobilenetv2_fpn")
        frames(page)
        assert count(page) == "1"
        page.wait_for_timeout(1000)
        assert count(page) == "1"  # the other model's answer (0) is kept with its own request
        page.select_option("#version", "resnet50_fpn")
        frames(page)
        assert count(page) == "0"

    def test_a_removed_picture_does_not_come_back(self, page: Page, stub: Stub, picture: Path) -> None:
        stub.delay = 0.6
        page.set_input_files("#file", picture)
        page.locator(".remove-thumbnail").click(force=True)
        page.wait_for_timeout(900)
        assert page.locator("#upload").is_visible()
        assert labels(page) == []


class TestTrouble:
    @pytest.mark.parametrize(
        ("mode", "words"),
        [
            ("no_worker", "busy or still starting"),
            ("broken", "failed on this picture"),
            ("break", "down or restarting"),
            ("memory", "memory"),
            ("offline", "cannot be reached"),
        ],
    )
    def test_a_failure_and_another_try(
        self, page: Page, stub: Stub, picture: Path, mode: str, words: str
    ) -> None:
        """TorchServe fails, or the connection; and comes back."""
        stub.mode = mode
        page.context.set_offline(mode == "offline")
        page.set_input_files("#file", picture)
        assert words in failure(page)
        until(page, f"document.querySelector('#alert').textContent.includes('{words}')")
        stub.mode = "ok"
        page.context.set_offline(False)
        page.get_by_role("button", name="Try again").click()
        settled(page)
        assert count(page) == "1"

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"", "is empty (0 bytes)"),
            (b"just text", "is not a picture that this browser can open"),
            (b"\xff\xd8\xff\xe0\0\x10JFIF", "is not a picture that this browser can open"),
        ],
    )
    def test_a_file_that_is_no_picture(self, page: Page, picture: Path, data: bytes, words: str) -> None:
        bad = payload("bad.jpg", data)
        page.set_input_files("#file", bad)
        until(page, "!document.querySelector('#upload-error').hidden")
        assert words in page.locator("#upload-error").inner_text()
        send(page, picture, by="#file")
        page.set_input_files("#add", bad)
        until(page, "!document.querySelector('#workspace-error').hidden")
        assert words in page.locator("#workspace-error").inner_text()
        assert labels(page) == ["party.png: 1 found"]
        send(page, picture)
        assert page.locator("#workspace-error").is_hidden()

    def test_too_large_with_scaling_switched_off(self, page: Page, stub: Stub, picture: Path) -> None:
        """The page's server takes 25 million pixels, the stub's model 24 million."""
        send(page, picture)
        page.uncheck("#scale")
        stub.requests.clear()
        page.set_input_files("#add", payload("wide.jpg", balloon_picture(6000, 4050, [], kind="JPEG")))
        assert "6000 × 4050 pixels; the limit is 24 million" in failure(page)
        page.evaluate("document.body.dataset.maxBytes = 1000")
        page.set_input_files("#add", payload("big.png", noisy(100)))
        until(page, "document.querySelector('.caption').textContent.includes('big.png')")
        assert "Turn on scaling" in failure(page)
        assert stub.requests == []

    def test_tiles_rule_out_scaling(self, page: Page, stub: Stub, picture: Path) -> None:
        send(page, picture)
        with page.expect_response("**/api/v1/predict"):
            page.check("#tiles")
        settled(page)
        assert [request["options"].get("tiles") for request in stub.requests[-2:]] == [None, "1024"]
        assert page.locator("#scale").is_disabled()

    def test_an_outage_is_polled_by_one_timer(self, open_page: Open, base_url: str) -> None:
        page = open_page()
        page.clock.install()
        asked: list[float] = []

        def refuse(route: Route) -> None:
            asked.append(time.monotonic())
            route.fulfill(status=503, json={"error": {"message": "Down."}})

        page.route("**/api/v1/models", refuse)
        page.goto(base_url)
        for number in range(1, 6):  # the first look, and four returns to the tab
            wait_for_status(page, "Down.")
            assert len(asked) == number
            page.evaluate("document.querySelector('#service-status').textContent = ''")
            page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        wait_for_status(page, "Down.")
        page.clock.run_for(5000)
        page.wait_for_timeout(200)
        assert len(asked) == 6 + 1

    def test_a_version_that_is_gone(self, page: Page, stub: Stub, picture: Path) -> None:
        send(page, picture)
        stub.versions.pop("resnet50_fpn")
        stub.versions["vovnet19_fpn"] = 76.0
        page.select_option("#version", "resnet50_fpn")
        assert "“resnet50_fpn” is no longer loaded" in failure(page)
        page.wait_for_selector("#version option[value=vovnet19_fpn]", state="attached")
        with page.expect_response("**/api/v1/predict") as waiting:
            page.select_option("#version", "vovnet19_fpn")
        assert waiting.value.status == 200

    def test_the_model_comes_up_after_the_page(
        self, open_page: Open, base_url: str, stub: Stub, picture: Path
    ) -> None:
        stub.mode = "no_worker"
        page = open_page()
        page.goto(base_url)
        wait_for_status(page, "No model is ready yet")
        stub.mode = "ok"
        page.set_input_files("#file", picture)  # sent as soon as the model is there
        wait_for(page, "Waiting for a model …")
        page.check("#flag")
        settled(page)
        wait_for_status(page, "2 models are ready")
        assert page.locator("#version").input_value() == "mobilenetv2_fpn"
        page.click("#undo")  # of the flag, which was set before a model was known
        assert page.locator("#version").input_value() == "mobilenetv2_fpn"
        assert count(page) == "1"


def test_eight_users_at_once_each_get_their_own(chromium: Browser, base_url: str, stub: Stub) -> None:
    contexts = [chromium.new_context(viewport={"width": 400, "height": 700}) for _ in range(8)]
    troubles: list[str] = []
    pages = [visit(context, base_url, troubles) for context in contexts]
    stub.delay = 1.0
    for number, page in enumerate(pages):
        discs = [(40 + 12 * disc, 100, 5) for disc in range(1 + number % 7)]
        page.set_input_files("#file", payload(f"user{number}.png", balloon_picture(300 + number, 200, discs)))
    for number, page in enumerate(pages):
        settled(page)
        assert labels(page) == [f"user{number}.png: {min(5, 1 + number % 7)} found"]
        assert f"{300 + number} × 200" in page.locator("#sent").inner_text()
    for context in contexts:
        context.close()
    assert troubles == []


def crowd(width: int, height: int, count: int) -> tuple[bytes, list[dict[str, Any]]]:
    """A picture and ``count`` overlapping discs on it, with scores from 0.99 down to 0.06."""
    random = np.random.default_rng(3)
    y, x = np.mgrid[:height, :width]
    found = []
    for number in range(count):
        radius = int(random.integers(60, 160))
        top, left = random.integers(0, height), random.integers(0, width)
        mask = (y - top) ** 2 + (x - left) ** 2 < radius**2
        found.append(instance(mask, 0.99 - 0.93 * number / count, number))
    return balloon_picture(width, height, []), found


def test_the_slider_follows_the_models_operating_point_until_it_is_moved(
    page: Page, stub: Stub, picture: Path
) -> None:
    stub.versions["resnet50_fpn.2"] = 80.0
    stub.thresholds["resnet50_fpn.2"] = 0.995
    page.reload()
    send(page, picture)
    shown = page.locator("#threshold-value")
    assert shown.inner_text() == "0.50"
    page.select_option("#version", "resnet50_fpn.2")
    settled(page)
    assert shown.inner_text() == "0.995"
    slide(page, "#threshold", 0.3)
    page.select_option("#version", "mobilenetv2_fpn")
    frames(page)
    assert shown.inner_text() == "0.30"


def test_the_threshold_slider_moves_smoothly(page: Page, stub: Stub, record_property: Any) -> None:
    """100 instances on 4 megapixels: more than 30 frames a second, as Chromium shows them, while the slider moves."""
    data, found = crowd(2000, 2000, 100)
    stub.answers[data] = found
    page.set_input_files("#file", payload("crowd.png", data))
    settled(page)
    script = """() => new Promise((done) => {
        const slider = document.querySelector("#threshold");
        const times = [];
        let step = 0;
        requestAnimationFrame(function next(now) {
            times.push(now);
            if (step++ === 90) return done(times);
            slider.value = 0.06 + 0.9 * (0.5 + 0.5 * Math.cos(step / 10));
            slider.dispatchEvent(new Event("input"));
            requestAnimationFrame(next);
        });
    })"""
    intervals = np.diff(page.evaluate(script))[5:]
    assert page.locator("#objects li").count() == 100
    speed, worst = 1000 / float(np.median(intervals)), float(np.percentile(intervals, 95))
    record_property("frames_per_second", speed)
    size = page.evaluate("(c => `${c.width} × ${c.height}`)(document.querySelector('.viewer canvas'))")
    print(f"\n{speed:.0f} frames a second (median; 95 % within {worst:.0f} ms) on a canvas of {size}, no GPU")
    assert speed > 30


def test_what_is_counted_is_exact_after_every_step(page: Page, stub: Stub) -> None:
    """The page keeps union counts by score; they must equal those of the masks."""
    data, found = crowd(300, 200, 40)
    stub.answers[data] = found
    with page.expect_response("**/api/v1/predict") as waiting:
        page.set_input_files("#file", payload("crowd.png", data))
    reply = waiting.value.json()
    settled(page)
    script = """async (reply) => {
        const {Prediction} = await import("/static/js/prediction.js");
        const prediction = new Prediction(reply);
        const step = (t) => [prediction.visible(t).length, prediction.covered(t)];
        const all = [0.05, 0.2, 0.5, 0.8, 1].map(step);
        prediction.instances[0].struck = prediction.instances[7].struck = true;
        prediction.refresh();
        return [all, [0.05, 0.2, 0.5, 0.8, 1].map(step)];
    }"""
    shown, hidden = page.evaluate(script, reply)
    for index, threshold in enumerate((0.05, 0.2, 0.5, 0.8, 1)):
        masks = masks_of(reply, threshold)
        rest = np.delete(masks, [i for i in (0, 7) if i < len(masks)], axis=0)
        for measured, expected in ((shown, masks), (hidden, rest)):
            union = expected.any(0).mean() if len(expected) else 0
            assert measured[index] == pytest.approx([len(expected), union])


def test_no_motion_for_those_who_want_none(open_page: Open, base_url: str, stub: Stub, picture: Path) -> None:
    page = open_page(reduced_motion="reduce")
    page.goto(base_url)
    stub.delay = 2.0
    page.set_input_files("#file", picture)
    wait_for(page, "Looking")
    spinner = "getComputedStyle(document.querySelector('.progress .spinner'))"
    assert page.evaluate(f"{spinner}.animationName") == "none"


class TestWhileAPhotoIsScaled:
    """Phone photos are scaled before the upload; the page stays usable."""

    PHOTO = payload("phone.jpg", balloon_picture(2600, 1950, kind="JPEG"))
    HOLD = """
        const released = new Promise((done) => (window.release = done));
        const original = HTMLCanvasElement.prototype.toBlob;
        HTMLCanvasElement.prototype.toBlob = function (...given) {
            released.then(() => original.apply(this, given));
        };
    """  # the scaling, until window.release()

    def test_models_become_known(self, open_page: Open, base_url: str) -> None:
        page = open_page()
        page.add_init_script(self.HOLD)
        asked: list[Route] = []
        page.route("**/api/v1/models", lambda route: asked.append(route))
        page.goto(base_url)
        page.set_input_files("#file", self.PHOTO)
        wait_for(page, "Waiting")
        asked[0].continue_()
        wait_for_status(page, "2 models are ready")
        with page.expect_response("**/api/v1/predict"):
            page.evaluate("window.release()")
        settled(page)
        assert int(count(page)) > 0
        assert page.locator("#version").input_value() != ""

    def test_cancel_is_kept(self, open_page: Open, base_url: str) -> None:
        page = open_page()
        page.add_init_script(self.HOLD)
        sent: list[str] = []
        page.on("request", lambda request: request.url.endswith("/predict") and sent.append(request.url))
        page.goto(base_url)
        page.set_input_files("#file", self.PHOTO)
        page.get_by_role("button", name="Cancel").click()
        assert "Canceled" in state(page)
        page.evaluate("window.release()")
        page.wait_for_timeout(500)
        assert "Canceled" in state(page)
        assert sent == []


def test_the_page_asks_for_a_token_once(open_page: Open, tmp_path: Path, stub_site: tuple[str, Stub]) -> None:
    tokens = TokenFile(tmp_path / "tokens.json")
    secret = tokens.add("visitor")
    with serving(create_app(stub_config(stub_site[1], TOKEN_FILE=str(tokens.path)))) as url:
        page = open_page()
        page.goto(url)
        wait_for_status(page, "Enter your token")
        for token, words in (("wrong", "not valid"), (secret, "2 models are ready")):
            page.fill("#token", token)
            page.locator("#token").blur()
            wait_for_status(page, words)
        assert sample(page)["instances"]
        page.reload()
        wait_for_status(page, "2 models are ready")
        assert sample(page)["instances"]
        page.context.close()


def test_a_picture_is_sent_for_review(open_page: Open, tmp_path: Path, stub_site: tuple[str, Stub]) -> None:
    """Only if the visitor asks, and once."""
    store = tmp_path / "review"
    with serving(create_app(stub_config(stub_site[1], REVIEW=str(store)))) as url:
        page = open_page()
        page.goto(url)
        sample(page)
        page.check("#flag")
        assert list(store.glob("*-*")) == []
        with page.expect_response("**/api/v1/predict") as waiting:
            page.click("#review")
        assert waiting.value.status == 200
        until(page, "document.querySelector('#review').textContent === 'Sent for review.'")
        assert page.locator("#review").is_disabled()
        (entry,) = store.glob("*-wrong")
        assert (entry / "photo.webp").read_bytes() == (FOLDER / "street.webp").read_bytes()
        page.context.close()
