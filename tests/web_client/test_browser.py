"""Every feature of the page, used once in Chromium.

The tests know only the page and its replies: any model may stand behind ``base_url`` that has two versions and finds
something in "street".
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page
from pycocotools import mask as coco_mask

from finetune.data.dataset import class_names, read_photos
from tests.commands import finetune
from tests.web_client import browser
from tests.web_client.browser import canvas_pixels, frames, masks_of, sample, send, settled, slide, until
from tests.web_client.samples import FOLDER
from tests.web_client.stub import balloon_picture

pytestmark = pytest.mark.browser
chromium, stub_site, base_url, page = browser.chromium, browser.stub_site, browser.base_url, browser.page

STREET = FOLDER / "street.webp"


@pytest.fixture
def eyes() -> None:
    """For tests that need a model which finds what is in the picture."""


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "it's a party.png"
    path.write_bytes(balloon_picture(400, 300, [(100, 150, 60), (150, 160, 50), (320, 80, 30)]))
    return path


def share_shown(page: Page) -> float:
    return float(page.locator("#share").inner_text().removesuffix(" %")) / 100


def rows(page: Page) -> Locator:
    return page.locator("#objects li:visible")


class TestPictureIn:
    def test_file_picker(self, page: Page, picture: Path) -> None:
        reply = send(page, picture)
        masks = masks_of(reply)
        assert page.locator("#count").inner_text() == str(len(masks))
        assert share_shown(page) == pytest.approx(masks.any(0).mean(), abs=5e-4)
        assert "400 × 300" in page.locator("#sent").inner_text()

    def test_sample(self, page: Page) -> None:
        reply = sample(page)
        assert reply["image"] == {"width": 640, "height": 480}
        assert len(masks_of(reply)) >= 1
        assert page.locator("#count").inner_text() == str(len(masks_of(reply)))

    def test_camera_of_a_phone(self, page: Page, picture: Path) -> None:
        assert page.locator("#camera").get_attribute("capture") == "environment"
        send(page, picture, by="#camera")

    @pytest.mark.parametrize("event", ["drop", "paste"])
    def test_drop_and_paste(self, page: Page, eyes: None, picture: Path, event: str) -> None:
        script = """([event, bytes]) => {
            const data = new DataTransfer();
            const say = (kind, name) => document.body.dispatchEvent(
                new kind(name, {dataTransfer: data, clipboardData: data, bubbles: true, cancelable: true}));
            const asks = () => document.body.classList.contains("dragging");
            data.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
            if (event === "drop") {
                say(DragEvent, "dragenter");
                if (!asks()) throw new Error("nothing shows that it may be dropped");
                say(DragEvent, "drop");
                if (asks()) throw new Error("it still asks to drop");
            } else {
                say(ClipboardEvent, "paste");
            }
        }"""
        with page.expect_response("**/api/v1/predict") as waiting:
            page.evaluate(script, [event, list(picture.read_bytes())])
        assert waiting.value.json()["image"]["width"] == 400
        settled(page)
        assert page.locator(".thumbnail").get_attribute("aria-label") == "dropped.png: 3 found"

    def test_a_large_photo_is_scaled_unless_switched_off(self, page: Page, tmp_path: Path) -> None:
        path = tmp_path / "large.jpg"
        path.write_bytes(balloon_picture(3000, 2000, [(1000, 1000, 400)], kind="JPEG"))
        assert send(page, path)["image"] == {"width": 2048, "height": 1365}
        assert "Sent at 2048 × 1365, scaled down from 3000 × 2000" in page.locator("#sent").inner_text()
        with page.expect_response("**/api/v1/predict") as waiting:
            page.uncheck("#scale")
        assert waiting.value.json()["image"] == {"width": 3000, "height": 2000}
        settled(page)
        assert "Sent unchanged, 3000 × 2000" in page.locator("#sent").inner_text()

    def test_a_photo_taken_upright_stays_upright(self, page: Page, eyes: None, tmp_path: Path) -> None:
        path = tmp_path / "phone.jpg"
        exif = Image.Exif()
        exif[0x0112] = 6  # turn it clockwise to see it
        path.write_bytes(balloon_picture(400, 200, [(350, 60, 30)], kind="JPEG", exif=exif, quality=95))
        reply = send(page, path)
        assert reply["image"] == {"width": 200, "height": 400}
        canvas = canvas_pixels(page)
        assert canvas.shape[0] > canvas.shape[1]
        y, x = (int(v) for v in np.argwhere(masks_of(reply)[0]).mean(0) * canvas.shape[0] / 400)
        assert canvas[y, x, 0] > canvas[y, x, 2] + 40  # the disc is where the mask is


def softened(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool → (H, W) uint8, blurred over about ten pixels."""
    height, width = mask.shape
    image = Image.fromarray(mask).convert("L").resize((width // 10, height // 10), Image.Resampling.BOX)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def deepest(mask: np.ndarray) -> np.ndarray:
    """(y, x) of the pixel that is farthest from the mask's rim."""
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    return np.array(np.unravel_index(np.argmax(depth), mask.shape))


class TestLooking:
    def test_hover_and_click_an_object(self, page: Page) -> None:
        reply = sample(page)
        y, x = (float(v) for v in deepest(masks_of(reply)[0]))
        canvas = page.locator(".viewer canvas")
        box = canvas.bounding_box()
        assert box
        place = {"x": x / 640 * box["width"], "y": y / 480 * box["height"]}
        before = canvas_pixels(page)
        canvas.hover(position=place)
        frames(page)
        tip = page.locator(".tooltip").inner_text()
        first = reply["instances"][0]
        assert first["class_name"] in tip
        assert f"{first['score']:.2f}" in tip
        assert f"{first['area']:,} px" in tip
        assert not np.array_equal(canvas_pixels(page), before)  # the outline
        assert "on" in (page.locator("#objects li").first.get_attribute("class") or "")
        canvas.click(position=place)
        page.mouse.move(1, 1)
        frames(page)
        assert page.locator(".tooltip").is_hidden()
        assert "on" in (page.locator("#objects li").first.get_attribute("class") or "")  # a click stays

    def test_threshold_filters_without_a_new_request(self, page: Page) -> None:
        reply = sample(page)
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        scores = sorted({round(entry["score"], 2) for entry in reply["instances"]})
        for threshold in (0.05, scores[len(scores) // 2], scores[-1], 1):
            slide(page, "#threshold", threshold)
            masks = masks_of(reply, threshold)
            assert page.locator("#count").inner_text() == str(len(masks))
            assert rows(page).count() == len(masks)
            assert share_shown(page) == pytest.approx(masks.any(0).mean() if len(masks) else 0, abs=5e-4)
        assert "Best score: " in page.locator("#no-objects").inner_text()
        slide(page, "#threshold", 0.05)
        assert share_shown(page) == pytest.approx(reply["mask_fraction"], abs=5e-4)
        assert requests == []

    def test_views(self, page: Page, eyes: None) -> None:
        reply = sample(page)
        masks = masks_of(reply)
        shown: dict[str, np.ndarray] = {}
        for view in ("overlay", "splash", "masks", "original"):
            page.locator(f"input[value={view}]").check(force=True)
            frames(page)
            small = Image.fromarray(canvas_pixels(page)).resize((640, 480), Image.Resampling.BOX)
            shown[view] = np.asarray(small)[..., :3].astype(int)
        # away from every rim, where smoothing does not reach
        deep = np.any([softened(mask) > 250 for mask in masks], axis=0)
        far = np.all([softened(mask) < 5 for mask in masks], axis=0) & ~masks.any(0)
        assert deep.sum() >= 30
        assert np.ptp(shown["splash"][far], axis=1).max() <= 3  # gray
        assert np.abs(shown["splash"][deep] - shown["original"][deep]).max() <= 2  # its own colors
        assert np.abs(shown["overlay"][far] - shown["original"][far]).max() <= 2
        assert np.abs(shown["overlay"][deep] - shown["original"][deep]).mean() > 10
        assert (shown["masks"][far] < 25).all()
        assert page.locator("#opacity").is_disabled()

    def test_opacity(self, page: Page) -> None:
        sample(page)
        original = canvas_pixels(page)
        slide(page, "#opacity", 1)
        assert np.abs(canvas_pixels(page).astype(int) - original).mean() > 0.3

    def test_the_slider_reveals_the_original(self, page: Page) -> None:
        sample(page)
        overlay = canvas_pixels(page)
        page.locator("input[value=original]").check(force=True)
        frames(page)
        original = canvas_pixels(page)
        page.locator("input[value=overlay]").check(force=True)
        slide(page, "#wipe", 0.5)
        half = overlay.shape[1] // 2
        split = canvas_pixels(page)
        assert np.array_equal(split[:, : half - 2], original[:, : half - 2])
        assert np.array_equal(split[:, half + 2 :], overlay[:, half + 2 :])

    def test_several_pictures(self, page: Page, eyes: None, picture: Path) -> None:
        send(page, picture, STREET, FOLDER / "window.webp")
        until(page, "document.querySelectorAll('.thumbnail').length === 3")
        settled(page)
        assert (
            page.locator(".thumbnail[aria-current=true]").get_attribute("aria-label")
            == "it's a party.png: 3 found"
        )
        page.locator(".thumbnail").nth(1).click()
        frames(page)
        assert "street.webp" in page.locator(".caption").inner_text()
        page.locator(".remove-thumbnail").nth(1).click(force=True)
        assert page.locator(".thumbnail").count() == 2
        assert "window.webp" in page.locator(".caption").inner_text()
        for _ in range(2):
            page.locator(".remove-thumbnail").first.click(force=True)
        assert page.locator("#upload").is_visible()

    def test_timings(self, page: Page) -> None:
        reply = sample(page)
        text = page.locator("#times").inner_text()
        assert f"inference {reply['timings_ms']['inference']:.0f}" in text
        assert re.match(r"\d+\.\d s in total", text)


class TestModels:
    def test_another_model_for_this_picture(self, page: Page) -> None:
        first = sample(page)
        options = page.locator("#version option").all_inner_texts()
        assert len(options) >= 2
        other = page.locator("#version option:not(:checked)").first.get_attribute("value")
        with page.expect_response("**/api/v1/predict") as waiting:
            page.select_option("#version", other)
        settled(page)
        assert waiting.value.json()["model"]["version"] == other != first["model"]["version"]
        assert other in page.locator(".caption").inner_text()
        page.select_option("#version", first["model"]["version"])  # its answer is still there
        frames(page)
        assert page.locator("#count").inner_text() == str(len(masks_of(first)))

    def test_two_models_side_by_side(self, page: Page) -> None:
        first = sample(page)
        with page.expect_response("**/api/v1/predict") as waiting:
            page.check("#compare")
        second = waiting.value.json()
        settled(page)
        captions = page.locator(".caption").all_inner_texts()
        assert len(captions) == 2
        for caption, reply in zip(captions, (first, second), strict=True):
            assert reply["model"]["version"] in caption
            assert f"{len(masks_of(reply))} object" in caption
            assert f"{reply['timings_ms']['inference'] / 1000:.1f} s inference" in caption
        boxes = [page.locator(".viewer canvas").nth(index).bounding_box() for index in (0, 1)]
        assert boxes[0]
        assert boxes[1]
        assert boxes[1]["x"] > boxes[0]["x"] + boxes[0]["width"]
        page.uncheck("#compare")
        assert page.locator(".viewer").count() == 1


def download(page: Page, kind: str) -> bytes:
    with page.expect_download() as waiting:
        page.click(f"[data-download={kind}]")
    return Path(waiting.value.path()).read_bytes()


class TestDownload:
    """The files are opened and compared with the reply."""

    def test_overlay_and_splash_at_full_size(self, page: Page, eyes: None, tmp_path: Path) -> None:
        path = tmp_path / "large.png"
        path.write_bytes(balloon_picture(2600, 1800, [(900, 900, 400)]))
        reply = send(page, path)
        assert reply["image"]["width"] == 2048
        # the view on the screen does not change the file
        page.locator("input[value=splash]").check(force=True)
        for kind in ("overlay", "splash"):
            with Image.open(io.BytesIO(download(page, kind))) as image:
                assert image.size == (2600, 1800)
                rgb = np.asarray(image.convert("RGB")).astype(int)
            assert rgb[20, 20].tolist() == pytest.approx([120, 120, 120], abs=1)
            if kind == "splash":
                assert rgb[900, 900].tolist() == pytest.approx([255, 0, 0], abs=1)
            else:
                assert rgb[900, 900].tolist() != [255, 0, 0]

    def test_overlay_has_the_size_of_the_reply(self, page: Page) -> None:
        reply = sample(page)
        with Image.open(io.BytesIO(download(page, "overlay"))) as image:
            assert image.size == (reply["image"]["width"], reply["image"]["height"])

    def test_cutouts(self, page: Page) -> None:
        reply = sample(page)
        masks = masks_of(reply)
        with zipfile.ZipFile(io.BytesIO(download(page, "cutouts"))) as archive:
            assert archive.testzip() is None
            names = archive.namelist()
            assert len(names) == len(masks)
            assert names[0].startswith(f"000_{reply['instances'][0]['class_name']}_")
            for name, mask in zip(names, masks, strict=True):
                with Image.open(io.BytesIO(archive.read(name))) as image:
                    alpha = np.asarray(image)[..., 3]
                assert (alpha > 127).sum() == pytest.approx(mask.sum(), rel=0.02, abs=3)
                assert alpha[0, 0] == 0


class TestCorrections:
    """What a visitor corrects counts at once, can be undone, and goes into the data set."""

    def test_a_false_object_is_struck_out(self, page: Page) -> None:
        masks = masks_of(sample(page))
        page.locator("#objects li input[type=checkbox]").first.uncheck()
        frames(page)
        assert page.locator("#count").inner_text() == str(len(masks) - 1)
        assert share_shown(page) == pytest.approx(masks[1:].any(0).mean() if len(masks) > 1 else 0, abs=5e-4)
        page.click("#undo")
        frames(page)
        assert page.locator("#count").inner_text() == str(len(masks))
        assert page.locator("#undo").is_disabled()

    def test_by_keyboard_alone(self, page: Page) -> None:
        count = len(masks_of(sample(page)))
        first = page.locator("#objects li").first
        name = first.locator("button").inner_text().split("\n")[0]
        first.locator("button").focus()
        page.keyboard.press("Delete")
        frames(page)
        assert page.locator("#count").inner_text() == str(count - 1)
        until(page, f"document.querySelector('#live').textContent === '{name} struck out.'")
        page.keyboard.press("Enter")
        frames(page)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "class-name"
        page.keyboard.press("ControlOrMeta+a")
        page.keyboard.type("kite")
        page.keyboard.press("Delete")  # of text, not of the object
        page.keyboard.press("Enter")
        assert first.locator("button").inner_text().startswith("kite 1")
        assert first.get_by_role("checkbox").get_attribute("aria-label") == "Keep kite 1"
        page.keyboard.press("Shift+Tab")
        for _ in range(2):
            page.keyboard.press("ControlOrMeta+z")
        frames(page)
        assert first.locator("button").inner_text().startswith(name)
        assert page.locator("#count").inner_text() == str(count)
        assert page.locator("#undo").is_disabled()

    def test_undo_returns_to_the_picture_that_was_corrected(self, page: Page, picture: Path) -> None:
        send(page, picture, STREET)
        until(page, "document.querySelectorAll('.thumbnail').length === 2")
        settled(page)
        page.check("#flag")
        tile = page.locator(".thumbnail").first
        assert (tile.get_attribute("aria-label") or "").endswith("flagged as wrong")
        page.locator(".thumbnail").nth(1).click()
        assert not page.locator("#flag").is_checked()
        page.click("#undo")
        frames(page)
        assert tile.get_attribute("aria-current") == "true"
        assert not page.locator("#flag").is_checked()
        page.check("#flag")
        page.locator(".remove-thumbnail").first.click(force=True)
        assert page.locator("#undo").is_disabled()  # the picture is gone, and so is its correction

    def test_what_the_second_model_found_cannot_be_corrected(self, page: Page) -> None:
        reply = sample(page)
        page.locator("#objects li button").first.click()
        frames(page)
        page.check("#compare")
        settled(page)
        y, x = deepest(masks_of(reply)[0])
        canvas = page.locator(".viewer canvas").nth(1)
        box = canvas.bounding_box()
        assert box
        canvas.click(position={"x": float(x) / 640 * box["width"], "y": float(y) / 480 * box["height"]})
        frames(page)
        assert page.locator("#class-name").count() == 0
        page.keyboard.press("Delete")
        assert page.locator("#undo").is_disabled()

    def test_an_empty_class_name_changes_nothing(self, page: Page) -> None:
        sample(page)
        page.locator("#objects li button").first.click()
        before = page.locator("#class-name").input_value()
        page.fill("#class-name", " ")
        page.keyboard.press("Enter")
        frames(page)
        assert page.locator("#class-name").input_value() == before
        assert page.locator("#undo").is_disabled()

    def test_the_session_is_one_data_set_that_data_import_reads(
        self, page: Page, eyes: None, picture: Path, tmp_path: Path
    ) -> None:
        """Two pictures of one name and a GIF; one object struck out, one of another class, one picture flagged."""
        other, moving = tmp_path / "other" / picture.name, tmp_path / "moving.gif"
        other.parent.mkdir()
        other.write_bytes(balloon_picture(200, 150))
        moving.write_bytes(balloon_picture(120, 90, kind="GIF"))
        reply = send(page, picture, other, moving)
        until(page, "document.querySelectorAll('.thumbnail').length === 3")
        settled(page)
        boxes = page.locator("#objects li")
        boxes.nth(1).get_by_role("checkbox").uncheck()
        boxes.nth(2).locator("button").click()
        page.fill("#class-name", "kite")
        page.keyboard.press("Enter")
        page.check("#flag")
        path = tmp_path / "dataset.zip"
        path.write_bytes(download(page, "dataset"))
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            assert archive.read(names[0]) == picture.read_bytes()
            document = json.loads(archive.read("_annotations.coco.json"))
        assert names == ["it's a party.png", "it's a party_2.png", "moving.png", "_annotations.coco.json"]
        assert [image["flagged"] for image in document["images"]] == [True, False, False]
        first = [each for each in document["annotations"] if each["image_id"] == 1]
        assert [each["score"] for each in first] == [reply["instances"][i]["score"] for i in (0, 2)]
        assert (
            finetune(["data", "import", path, "--root", tmp_path / "set", *"--val 0 --test 0".split()]) == 0
        )
        assert class_names(tmp_path / "set") == ["balloon", "kite"]
        photos = {photo.name: photo for photo in read_photos(tmp_path / "set", "train")}
        assert len(photos) == 3
        kept = photos["it_s_a_party.png"].instances
        assert [each.class_id for each in kept] == [0, 1]
        for each, index in zip(kept, (0, 2), strict=True):
            expected = coco_mask.decode(reply["instances"][index]["mask"])
            assert np.array_equal(coco_mask.decode(each.segmentation), expected)


def test_javascript_decodes_rle_as_pycocotools_does(page: Page) -> None:
    """1,000 random masks: noise of every density, discs, stripes, empty and full ones."""
    random = np.random.default_rng(7)
    encoded: list[dict[str, Any]] = []
    for number in range(1000):
        height, width = (int(v) for v in random.integers(1, 90, 2))
        if number % 3 == 0:
            mask = random.random((height, width)) < random.random()
        elif number % 3 == 1:
            y, x = np.mgrid[:height, :width]
            mask = (y - random.integers(height)) ** 2 + (x - random.integers(width)) ** 2 < random.integers(
                1, 1500
            )
        else:
            mask = np.full((height, width), number % 2 == 0)
            mask[:: int(random.integers(1, 9))] ^= bool(random.integers(2))
        encoded.append(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))))
    script = """async (masks) => {
        const {decodeCounts, eachRun, bounds} = await import("/static/js/rle.js");
        return masks.map(({size: [height, width], counts}) => {
            const runs = decodeCounts(counts);
            const pixels = new Uint8Array(height * width);
            eachRun(runs, (start, end) => pixels.fill(1, start, end));
            const {x, y, width: w, height: h} = bounds(runs, height);
            return [pixels.join(""), [x, y, w, h]];
        });
    }"""
    sent = [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in encoded]
    assert len(sent) == 1000
    for rle, (bits, box) in zip(encoded, page.evaluate(script, sent), strict=True):
        expected = coco_mask.decode(rle)
        assert bits == "".join(map(str, expected.ravel(order="F")))
        found = np.argwhere(expected)
        if len(found):
            (top, left), (bottom, right) = found.min(0), found.max(0)
            assert box == [left, top, right - left + 1, bottom - top + 1]
        else:
            assert box == [0, 0, 0, 0]


def test_keyboard_alone(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(12):
        if page.evaluate("document.activeElement.value") == "street":
            break
        page.keyboard.press("Tab")
    with page.expect_response("**/api/v1/predict") as waiting:
        page.keyboard.press("Enter")
    reply = waiting.value.json()
    settled(page)
    page.focus("#threshold")
    page.keyboard.press("End")
    frames(page)
    assert page.locator("#count").inner_text() == str(len(masks_of(reply, 1)))
    page.keyboard.press("Home")
    page.focus("input[value=overlay]")
    page.keyboard.press("ArrowRight")
    assert page.locator("input[value=splash]").is_checked()
    before = canvas_pixels(page)
    page.locator("#objects button").first.focus()  # the object is outlined while its row has the focus
    frames(page)
    assert not np.array_equal(canvas_pixels(page), before)


def test_screen_readers_hear_the_result(page: Page) -> None:
    reply = sample(page)
    count = len(masks_of(reply))
    until(page, f"document.querySelector('#live').textContent.includes('{count} object')")
    assert f"{count} object" in (page.locator(".viewer canvas").get_attribute("aria-label") or "")
    slide(page, "#threshold", 1)
    until(page, "document.querySelector('#live').textContent.startsWith('0 objects')")


def test_without_javascript(chromium: Browser, base_url: str, tmp_path: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(base_url)
    path = tmp_path / "plain.png"
    path.write_bytes(balloon_picture(300, 200))
    page.set_input_files("#file", str(path))
    page.get_by_role("button", name="Find objects").click()
    assert page.locator("img.overlay-image").is_visible()
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download the overlay").click()
    svg = Path(waiting.value.path()).read_text()
    assert 'viewBox="0 0 300 200"' in svg
    assert "<path" in svg
    page.get_by_role("link", name="Another picture").click()
    page.locator("[value=street]").click()
    assert page.locator("img.overlay-image").is_visible()
    context.close()
