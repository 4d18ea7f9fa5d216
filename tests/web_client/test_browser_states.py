"""The page while it waits, when things go wrong, and with many users at once, in front of the stub."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route

from tests.web_client import browser
from tests.web_client.browser import frames, masks_of, sample, send, settled, slide, until, visit
from tests.web_client.conftest import serving, stub_config
from tests.web_client.samples import FOLDER
from tests.web_client.stub import Stub, balloon_picture, instance
from web_client.app import create_app
from web_client.server.tokens import TokenFile

pytestmark = pytest.mark.browser
chromium, stub_site, base_url = browser.chromium, browser.stub_site, browser.base_url


@pytest.fixture
def stub(stub_site: tuple[str, Stub]) -> Iterator[Stub]:
    stub = stub_site[1]
    versions = dict(stub.versions)
    yield stub
    stub.mode, stub.delay, stub.versions = "ok", 0.0, versions


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


def noisy(side: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def state(page: Page) -> str:
    return page.locator(".progress").first.inner_text()


class TestWaiting:
    def test_elapsed_time_runs(self, page: Page, stub: Stub, picture: Path) -> None:
        stub.delay = 3.0
        page.set_input_files("#file", str(picture))
        until(
            page, "document.querySelector('.progress p')?.textContent.startsWith('Looking for objects, 0.')"
        )
        assert page.locator(".viewer canvas").is_visible()  # the picture is there at once
        assert page.locator("#share").inner_text() == "–"
        assert page.locator("[data-download=overlay]").is_disabled()
        first = state(page)
        page.wait_for_timeout(250)
        assert state(page) != first
        settled(page)
        assert page.locator(".progress").is_hidden()

    def test_upload_progress(self, page: Page) -> None:
        """Over a slow line: the browser reports the progress, so it is slowed down there."""
        session = page.context.new_cdp_session(page)
        line = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 60_000}
        session.send("Network.emulateNetworkConditions", line)
        script = """() => new Promise((done) => {
            const seen = [];
            const timer = setInterval(() => {
                const box = document.querySelector(".progress");
                const bar = box?.querySelector("progress");
                if (bar && !bar.hidden) seen.push(bar.value);
                if (box?.hidden) { clearInterval(timer); done(seen); }
            }, 30);
        })"""
        page.evaluate(f"void (window.measured = ({script})())")
        with page.expect_response("**/api/v1/predict"):
            page.set_input_files(
                "#file", {"name": "noise.png", "mimeType": "image/png", "buffer": noisy(200)}
            )
        settled(page)
        seen = page.evaluate("window.measured")
        assert len({round(value, 1) for value in seen}) >= 3
        assert seen == sorted(seen)

    def test_cancel_and_try_again(self, page: Page, stub: Stub, picture: Path) -> None:
        stub.delay = 2.0
        page.set_input_files("#file", str(picture))
        page.get_by_role("button", name="Cancel").click()
        assert "Canceled" in state(page)
        page.wait_for_timeout(2200)
        assert page.locator("#share").inner_text() == "–"  # the late answer was dropped
        stub.delay = 0
        page.get_by_role("button", name="Try again").click()
        settled(page)
        assert page.locator("#count").inner_text() == "1"

    def test_a_second_picture_while_the_first_is_running(
        self, page: Page, stub: Stub, tmp_path: Path
    ) -> None:
        slow, quick = tmp_path / "slow.png", tmp_path / "quick.png"
        slow.write_bytes(balloon_picture(400, 300, [(100, 100, 40), (250, 100, 40)]))
        quick.write_bytes(balloon_picture(300, 300, [(100, 100, 40)]))
        stub.delay = 1.0
        page.set_input_files("#file", str(slow))
        until(page, "document.querySelector('.progress p')?.textContent.startsWith('Looking')")
        stub.delay = 0
        page.set_input_files("#add", str(quick))
        until(page, "document.querySelector('#count').textContent === '1'")
        assert "quick.png" in page.locator(".caption").inner_text()
        settled(page)  # the slow answer arrives now
        assert page.locator("#count").inner_text() == "1"
        assert [tile.get_attribute("aria-label") for tile in page.locator(".thumbnail").all()] == [
            "slow.png: 2 found",
            "quick.png: 1 found",
        ]
        page.locator(".thumbnail").first.click()
        frames(page)
        assert page.locator("#count").inner_text() == "2"

    def test_a_stale_answer_of_the_same_picture_is_dropped(
        self, page: Page, stub: Stub, picture: Path
    ) -> None:
        send(page, picture)
        stub.delay = 0.8
        page.select_option("#version", "resnet50_fpn")
        page.wait_for_timeout(100)
        page.select_option("#version", "mobilenetv2_fpn")
        frames(page)
        assert page.locator("#count").inner_text() == "1"
        page.wait_for_timeout(1000)
        # the other model's answer (0) is kept with its own request
        assert page.locator("#count").inner_text() == "1"
        page.select_option("#version", "resnet50_fpn")
        frames(page)
        assert page.locator("#count").inner_text() == "0"

    def test_a_removed_picture_does_not_come_back(self, page: Page, stub: Stub, picture: Path) -> None:
        stub.delay = 0.6
        page.set_input_files("#file", str(picture))
        page.locator(".remove-thumbnail").click(force=True)
        page.wait_for_timeout(900)
        assert page.locator("#upload").is_visible()
        assert page.locator(".thumbnail").count() == 0


class TestTrouble:
    @pytest.mark.parametrize(
        ("mode", "words"),
        [
            ("no_worker", "busy or still starting"),
            ("broken", "failed on this picture"),
            ("break", "down or restarting"),
            ("memory", "memory"),
        ],
    )
    def test_torchserve_fails_and_comes_back(
        self, page: Page, stub: Stub, picture: Path, mode: str, words: str
    ) -> None:
        stub.mode = mode
        page.set_input_files("#file", str(picture))
        until(page, "document.querySelector('.progress.bad:not([hidden])')")
        assert words in state(page)
        until(page, f"document.querySelector('#alert').textContent.includes('{words}')")
        stub.mode = "ok"
        page.get_by_role("button", name="Try again").click()
        settled(page)
        assert page.locator("#count").inner_text() == "1"

    @pytest.mark.parametrize(
        ("name", "data", "words"),
        [
            ("zero.jpg", b"", "is empty (0 bytes)"),
            ("notes.jpg", b"just text", "is not a picture that this browser can open"),
            ("half.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF", "is not a picture that this browser can open"),
        ],
    )
    def test_a_file_that_is_no_picture(
        self, page: Page, picture: Path, name: str, data: bytes, words: str
    ) -> None:
        bad = {"name": name, "mimeType": "image/jpeg", "buffer": data}
        page.set_input_files("#file", bad)
        until(page, "!document.querySelector('#upload-error').hidden")
        assert words in page.locator("#upload-error").inner_text()
        send(page, picture, by="#file")
        page.set_input_files("#add", bad)
        until(page, "!document.querySelector('#workspace-error').hidden")
        assert words in page.locator("#workspace-error").inner_text()
        assert page.locator(".thumbnail").count() == 1
        assert page.locator("#count").inner_text() == "1"
        send(page, picture)
        assert page.locator("#workspace-error").is_hidden()

    def test_too_large_with_scaling_switched_off(self, page: Page, picture: Path) -> None:
        send(page, picture)
        page.uncheck("#scale")
        page.evaluate("document.body.dataset.maxBytes = 1000")
        page.set_input_files("#add", {"name": "big.png", "mimeType": "image/png", "buffer": noisy(100)})
        until(page, "document.querySelector('.progress.bad:not([hidden])')")
        assert "Turn on scaling" in state(page)

    def test_the_limits_of_the_model_count_too(self, page: Page, stub: Stub, picture: Path) -> None:
        """The page's server takes 25 million pixels, the stub's model 24 million."""
        send(page, picture)
        page.uncheck("#scale")
        stub.requests.clear()
        large = balloon_picture(6000, 4050, [], kind="JPEG")
        page.set_input_files("#add", {"name": "large.jpg", "mimeType": "image/jpeg", "buffer": large})
        until(page, "document.querySelector('.progress.bad:not([hidden])')")
        assert "6000 × 4050 pixels; the limit is 24 million" in state(page)
        assert stub.requests == []

    def test_tiles_rule_out_scaling(self, page: Page, stub: Stub, picture: Path) -> None:
        send(page, picture)
        with page.expect_response("**/api/v1/predict"):
            page.check("#tiles")
        settled(page)
        assert [request["options"].get("tiles") for request in stub.requests[-2:]] == [None, "1024"]
        assert page.locator("#scale").is_disabled()

    def test_an_outage_is_polled_by_one_timer(self, chromium: Browser, base_url: str) -> None:
        context = chromium.new_context()
        page = context.new_page()
        page.clock.install()
        asked: list[float] = []

        def refuse(route: Route) -> None:
            asked.append(time.monotonic())
            route.fulfill(status=503, json={"error": {"message": "Down."}})

        page.route("**/api/v1/models", refuse)
        page.goto(base_url)
        for number in range(1, 6):  # the first look, and four returns to the tab
            until(page, "document.querySelector('#service-status').textContent === 'Down.'")
            assert len(asked) == number
            page.evaluate("document.querySelector('#service-status').textContent = ''")
            page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        until(page, "document.querySelector('#service-status').textContent === 'Down.'")
        page.clock.run_for(5000)
        page.wait_for_timeout(200)
        assert len(asked) == 6 + 1
        context.close()

    def test_a_version_that_is_gone(self, page: Page, stub: Stub, picture: Path) -> None:
        send(page, picture)
        stub.versions.pop("resnet50_fpn")
        stub.versions["vovnet19_fpn"] = 76.0
        page.select_option("#version", "resnet50_fpn")
        until(page, "document.querySelector('.progress.bad:not([hidden])')")
        assert "“resnet50_fpn” is no longer loaded" in state(page)
        until(
            page,
            "[...document.querySelector('#version').options].some(option => option.value === 'vovnet19_fpn')",
        )
        with page.expect_response("**/api/v1/predict") as waiting:
            page.select_option("#version", "vovnet19_fpn")
        assert waiting.value.status == 200

    def test_the_connection_is_gone(self, page: Page, picture: Path) -> None:
        page.context.set_offline(True)
        page.set_input_files("#file", str(picture))
        until(page, "document.querySelector('.progress.bad:not([hidden])')")
        assert "cannot be reached" in state(page)
        page.context.set_offline(False)
        page.get_by_role("button", name="Try again").click()
        settled(page)
        assert page.locator("#count").inner_text() == "1"

    def test_the_model_comes_up_after_the_page(
        self, chromium: Browser, base_url: str, stub: Stub, picture: Path
    ) -> None:
        stub.mode = "no_worker"
        context = chromium.new_context()
        page = context.new_page()
        page.goto(base_url)
        until(page, "document.querySelector('#service-status').dataset.state === 'bad'")
        assert "No model is ready yet" in page.locator("#service-status").inner_text()
        stub.mode = "ok"
        page.set_input_files("#file", str(picture))  # sent as soon as the model is there
        until(page, "document.querySelector('.progress p')?.textContent === 'Waiting for a model …'")
        page.check("#flag")
        settled(page)
        until(page, "document.querySelector('#service-status').dataset.state === 'good'")
        assert page.locator("#version").input_value() == "mobilenetv2_fpn"
        page.click("#undo")  # of the flag, which was set before a model was known
        assert page.locator("#version").input_value() == "mobilenetv2_fpn"
        assert page.locator("#count").inner_text() == "1"
        context.close()


def test_eight_users_at_once_each_get_their_own(
    chromium: Browser, base_url: str, stub: Stub, tmp_path: Path
) -> None:
    contexts = [chromium.new_context(viewport={"width": 400, "height": 700}) for _ in range(8)]
    troubles: list[str] = []
    pages = [visit(context, base_url, troubles) for context in contexts]
    stub.delay = 1.0
    for number, page in enumerate(pages):
        path = tmp_path / f"user{number}.png"
        path.write_bytes(
            balloon_picture(300 + number, 200, [(40 + 12 * disc, 100, 5) for disc in range(1 + number % 7)])
        )
        page.set_input_files("#file", str(path))
    for number, page in enumerate(pages):
        settled(page)
        assert (
            page.locator(".thumbnail").get_attribute("aria-label")
            == f"user{number}.png: {min(5, 1 + number % 7)} found"
        )
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
    """100 instances on 4 megapixels: more than 30 frames a second, as Chromium shows them, while the
    slider moves."""
    data, found = crowd(2000, 2000, 100)
    stub.answers[data] = found
    page.set_input_files("#file", {"name": "crowd.png", "mimeType": "image/png", "buffer": data})
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
    times = page.evaluate(script)
    assert page.locator("#objects li").count() == 100
    intervals = np.diff(times)[5:]
    median = float(np.median(intervals))
    worst = float(np.percentile(intervals, 95))
    record_property("frames_per_second", 1000 / median)
    size = page.evaluate("(c => `${c.width} × ${c.height}`)(document.querySelector('.viewer canvas'))")
    speed = f"{1000 / median:.0f} frames a second (median; 95 % within {worst:.0f} ms)"
    print(f"\n{speed} on a canvas of {size}, no GPU")
    assert 1000 / median > 30


def test_what_is_counted_is_exact_after_every_step(page: Page, stub: Stub) -> None:
    """The page keeps union counts by score; they must equal those of the masks."""
    data, found = crowd(300, 200, 40)
    stub.answers[data] = found
    with page.expect_response("**/api/v1/predict") as waiting:
        page.set_input_files("#file", {"name": "crowd.png", "mimeType": "image/png", "buffer": data})
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
        union = masks.any(0).mean() if len(masks) else 0
        assert shown[index] == pytest.approx([len(masks), union])
        rest = np.delete(masks, [i for i in (0, 7) if i < len(masks)], axis=0)
        assert hidden[index] == pytest.approx([len(rest), rest.any(0).mean() if len(rest) else 0])


def test_no_motion_for_those_who_want_none(
    chromium: Browser, base_url: str, stub: Stub, picture: Path
) -> None:
    context = chromium.new_context(reduced_motion="reduce")
    page = visit(context, base_url, [])
    stub.delay = 2.0
    page.set_input_files("#file", str(picture))
    until(page, "document.querySelector('.progress .spinner:not([hidden])')")
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.progress .spinner')).animationName")
        == "none"
    )
    context.close()


class TestWhileAPhotoIsScaled:
    """Phone photos are scaled before the upload; the page stays usable."""

    @pytest.fixture
    def large(self) -> dict[str, Any]:
        return {
            "name": "phone.jpg",
            "mimeType": "image/jpeg",
            "buffer": balloon_picture(2600, 1950, kind="JPEG"),
        }

    def test_models_become_known(self, chromium: Browser, base_url: str, large: dict[str, Any]) -> None:
        context = chromium.new_context(viewport={"width": 1440, "height": 900})
        context.add_init_script(hold("HTMLCanvasElement.prototype.toBlob", "window.released"))
        page = context.new_page()
        asked = []
        page.route("**/api/v1/models", lambda route: asked.append(route))
        page.goto(base_url)
        page.set_input_files("#file", large)
        until(page, "document.querySelector('.progress p')?.textContent.startsWith('Waiting')")
        asked[0].continue_()
        page.wait_for_selector("#service-status[data-state=good]", state="attached")
        with page.expect_response("**/api/v1/predict"):
            page.evaluate("window.release()")
        settled(page)
        assert int(page.locator("#count").inner_text()) > 0
        assert page.locator("#version").input_value() != ""
        context.close()

    def test_cancel_is_kept(self, chromium: Browser, base_url: str, large: dict[str, Any]) -> None:
        context = chromium.new_context(viewport={"width": 1440, "height": 900})
        context.add_init_script(hold("HTMLCanvasElement.prototype.toBlob", "window.released"))
        page = visit(context, base_url, [])
        sent = []
        page.on("request", lambda request: "predict" in request.url and sent.append(request.url))
        page.set_input_files("#file", large)
        page.get_by_role("button", name="Cancel").click()
        assert "Canceled" in state(page)
        page.evaluate("window.release()")
        page.wait_for_timeout(500)
        assert "Canceled" in state(page)
        assert sent == []
        context.close()


def hold(function: str, promise: str) -> str:
    """A script that holds every call of a function until ``window.release()``."""
    return f"""
        {promise} = new Promise((done) => (window.release = done));
        const original = {function};
        {function} = function (...given) {{ {promise}.then(() => original.apply(this, given)); }};
    """


def test_the_page_asks_for_a_token_once(
    chromium: Browser, tmp_path: Path, stub_site: tuple[str, Stub]
) -> None:
    tokens = TokenFile(tmp_path / "tokens.json")
    secret = tokens.add("visitor")
    with serving(create_app(stub_config(stub_site[1]) | {"TOKEN_FILE": str(tokens.path)})) as url:
        context = chromium.new_context(viewport={"width": 1440, "height": 900})
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.goto(url)
        until(page, "document.querySelector('#service-status').textContent.includes('Enter your token')")
        page.fill("#token", "wrong")
        page.locator("#token").blur()
        until(page, "document.querySelector('#service-status').textContent.includes('not valid')")
        page.fill("#token", secret)
        page.locator("#token").blur()
        assert sample(page)["instances"]
        page.reload()
        page.wait_for_selector("#service-status[data-state=good]", state="attached")
        assert sample(page)["instances"]
        context.close()


def test_a_picture_is_sent_for_review(chromium: Browser, tmp_path: Path, stub_site: tuple[str, Stub]) -> None:
    """Only if the visitor asks, and once."""
    store = tmp_path / "review"
    with serving(create_app(stub_config(stub_site[1], REVIEW=str(store)))) as url:
        context = chromium.new_context(viewport={"width": 1440, "height": 900})
        page = visit(context, url, [])
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
        context.close()
