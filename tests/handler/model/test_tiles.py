"""Tiles with an oracle in the network's place: it sees exactly what a tile shows, and what is too small it does not."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from handler.api.options import parse_options
from handler.api.settings import Settings, parse_settings
from handler.model import Detections, Wanted, tiles
from handler.service import Answer, Request, Service
from tests.handler.awkward import save
from tests.handler.toys import FakePredictor

SIDE = 200  # so 40 pixels of overlap
HEIGHT, WIDTH = 520, 680


class Oracle(FakePredictor):
    """Finds every value above 0 in the first channel: its visible part, as a network would, in a mask of 28 × 28.

    Class and score are in the other channels (0 or 1, and percent). What is below ``smallest`` at the network's size of
    200 pixels is not seen.
    """

    def __init__(self, smallest: float = 5) -> None:
        super().__init__(classes=["balloon", "kite"])
        self.smallest = smallest

    def predict(
        self, images: Sequence[np.ndarray], wanted: Sequence[Wanted] | None = None
    ) -> list[Detections]:
        self.batches.append([image.shape for image in images])
        return [self._find(image) for image in images]

    def _find(self, image: np.ndarray) -> Detections:
        rows = []
        for value in np.flatnonzero(np.bincount(image[..., 0].ravel())[1:]) + 1:
            mask = image[..., 0] == value
            x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
            if max(w, h) * min(1, SIDE / max(image.shape[:2])) < self.smallest:
                continue
            small = cv2.resize(
                mask[y : y + h, x : x + w].astype(np.float32), (28, 28), interpolation=cv2.INTER_AREA
            )
            rows.append(((x, y, x + w, y + h), image[mask][0][2] / 100, int(image[mask][0][1]), small))
        rows.sort(key=lambda row: -row[1])
        boxes, scores, class_ids, masks = zip(*rows, strict=True) if rows else ((), (), (), ())
        return Detections(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(scores, np.float32),
            np.array(class_ids, np.int64),
            np.array(masks, np.float32).reshape(-1, 28, 28),
        )


def scene(*ellipses: tuple[int, int, int, int, int]) -> np.ndarray:
    """A photo with an ellipse for each (x, y, half width, half height, class), scores rising from 60 percent."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for i, (x, y, rx, ry, class_id) in enumerate(ellipses, start=1):
        cv2.ellipse(image, (x, y), (rx, ry), 0, 0, 360, (i, class_id, 59 + min(i, 41)), -1)
    return image


def request_of(image: np.ndarray, **options: object) -> Request:
    fields = {name: str(value).encode() for name, value in options.items()}
    return Request(
        {"image": save(Image.fromarray(image), "PNG"), **fields}, "multipart/form-data; boundary=x"
    )


def answer_to(image: np.ndarray, service: Service, **options: object) -> Answer:
    (answer,) = service.answer([request_of(image, **options)])
    return answer


def ask(image: np.ndarray, service: Service, **options: object) -> Any:
    return json.loads(answer_to(image, service, **options).body)


def masks_of(document: Any) -> list[np.ndarray]:
    return [coco_mask.decode(each["mask"]).astype(bool) for each in document["instances"]]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / max(1, np.count_nonzero(a | b))


CASES = {
    "inside a tile": [(60, 60, 20, 12, 0)],
    "in the overlap of two tiles": [(180, 60, 12, 12, 0)],
    "in the overlap of four tiles": [(180, 155, 10, 8, 0)],
    "across a seam, larger than the overlap": [(167, 60, 45, 20, 0)],
    "across four tiles": [(170, 150, 50, 45, 0)],
    "larger than a tile": [(350, 250, 180, 140, 0)],
    "larger than two tiles": [(340, 260, 280, 180, 0)],
    "side by side across a seam": [(148, 60, 19, 19, 0), (188, 60, 19, 19, 0), (168, 98, 15, 15, 0)],
    "one in front of the other": [(167, 80, 60, 40, 0), (170, 80, 14, 14, 1)],
    "two classes in one place": [(170, 70, 40, 30, 0), (170, 70, 30, 22, 1)],
    "one at the edge of the photo": [(0, 250, 30, 30, 0), (679, 519, 50, 50, 0)],
}


class OnlyTiles(Oracle):
    """Finds nothing in the whole photo."""

    def _find(self, image: np.ndarray) -> Detections:
        return super()._find(image if image.shape[0] <= SIDE else np.zeros_like(image))


@pytest.mark.parametrize("oracle", [Oracle, OnlyTiles])
@pytest.mark.parametrize("case", CASES)
def test_each_object_is_found_once_and_whole(case: str, oracle: type[Oracle]) -> None:
    image = scene(*CASES[case])
    document = ask(image, Service(oracle(), Settings()), tiles=SIDE)
    masks = masks_of(document)
    assert len(masks) == len(CASES[case])
    assert all(iou(*pair) < 0.5 for pair in combinations(masks, 2))
    for each, mask in zip(document["instances"], masks, strict=True):
        truth = image[..., 0] == round(100 * each["score"]) - 59
        assert each["class_id"] == image[truth][0][1]
        assert each["area"] == mask.sum()
        assert iou(mask, truth) > 0.9
        ys, xs = np.nonzero(mask)
        np.testing.assert_allclose(each["box"], [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=5)


def crowd(count: int = 250) -> np.ndarray:
    """A photo full of small objects that may touch, each with a value of its own."""
    rng = np.random.default_rng(0)
    places = rng.permutation([(x, y) for x in range(12, WIDTH, 25) for y in range(12, HEIGHT, 25)])[:count]
    return scene(*((x, y, *rng.integers(4, 13, 2), 0) for x, y in places.tolist()))


def test_hundreds_of_small_objects_are_each_found_once() -> None:
    service = Service(Oracle(smallest=7), Settings())
    alone, tiled = (len(ask(crowd(), service, **options)["instances"]) for options in ({}, {"tiles": SIDE}))
    assert (alone, tiled) == (48, 250)


def test_a_photo_no_larger_than_a_tile_is_predicted_as_ever() -> None:
    image = scene(*CASES["inside a tile"])[:SIDE, :SIDE]
    oracle = Oracle()
    answers = [ask(image, Service(oracle, Settings()), **options) for options in ({}, {"tiles": SIDE})]
    for answer in answers:
        del answer["timings_ms"]
    assert answers[0] == answers[1]
    assert oracle.batches == [[(SIDE, SIDE, 3)]] * 2


def test_the_photos_of_a_batch_keep_their_places_and_tiles_come_in_batches() -> None:
    oracle = Oracle()
    service = Service(oracle, Settings(), batch_size=4)
    images = [scene(*CASES[case]) for case in ("inside a tile", "across four tiles", "larger than a tile")]
    requests = [request_of(image, tiles=side) for side, image in zip((0, SIDE, 0), images, strict=True)]
    areas = [json.loads(answer.body)["instances"][0]["area"] for answer in service.answer(requests)]
    np.testing.assert_allclose(areas, [np.count_nonzero(image[..., 0]) for image in images], rtol=0.05)
    assert [len(batch) for batch in oracle.batches] == [2, 4, 4, 4, 1]
    assert {shape for batch in oracle.batches[2:] for shape in batch} == {(SIDE, SIDE, 3)}


def test_tiles_cover_the_photo_and_overlap() -> None:
    for height, width in ((200, 201), (520, 680), (199, 1000), (1111, 333)):
        places = tiles.windows(height, width, SIDE)
        covered = np.zeros((height, width), int)
        for x0, y0, x1, y1 in places:
            assert (x1 - x0, y1 - y0) == (min(SIDE, width), min(SIDE, height))
            covered[y0:y1, x0:x1] += 1
        assert covered.all()
        for axis in (0, 1):
            starts = np.unique(places[:, axis])
            assert (np.diff(starts) <= (1 - tiles.OVERLAP) * SIDE).all()


@pytest.mark.parametrize("output", ["overlay", "labels", "coco"])
def test_every_output_shows_joined_masks(output: str) -> None:
    image = scene(*CASES["across four tiles"])
    answer = answer_to(image, Service(OnlyTiles(), Settings()), tiles=SIDE, output=output)
    if output == "coco":
        (result,) = json.loads(answer.body)
        mask = coco_mask.decode(result["segmentation"]) > 0
    else:
        pixels = cv2.imdecode(np.frombuffer(answer.body, np.uint8), cv2.IMREAD_UNCHANGED)
        mask = pixels == 1 if output == "labels" else pixels.max(axis=2) > 60
    assert iou(mask, image[..., 0] > 0) > 0.7  # with the overlay's caption


@pytest.mark.parametrize(
    ("options", "status", "code", "field"),
    [
        *(
            ({"tiles": value}, 400, "invalid_option", "tiles")
            for value in ("-1", "100", "5000", "200.5", "big", "")
        ),
        ({"tiles": "128"}, 422, "too_many_tiles", "tiles"),
        ({}, 422, "too_many_pixels", "image"),
        ({"tiles": "0"}, 422, "too_many_pixels", "image"),
        ({"tiles": "200", "output": "overlay"}, 422, "too_many_pixels", "image"),
        ({"tiles": "200", "mask_format": "png"}, 422, "too_many_pixels", "image"),
        ({"tiles": "200"}, 200, None, None),
    ],
)
def test_limits(options: dict[str, str], status: int, code: str | None, field: str | None) -> None:
    service = Service(Oracle(), Settings(max_image_pixels=300_000, max_tiles=20))
    answer = answer_to(scene(), service, **options)
    error = json.loads(answer.body).get("error", {})
    assert (answer.status, error.get("code"), error.get("field")) == (status, code, field)


@pytest.mark.parametrize("form", ["raw", "form", "base64"])
def test_the_limit_on_bytes(form: str) -> None:
    image = save(Image.fromarray(scene()), "PNG")
    settings = Settings(max_image_bytes=len(image) - 1)

    def status(settings: Settings, **options: int) -> int:
        fields = {name: str(value).encode() for name, value in options.items()}
        request = {
            "raw": Request({"body": image}),
            "form": Request({"image": image, **fields}, "multipart/form-data; boundary=x"),
            "base64": Request({"body": {"image": base64.b64encode(image).decode(), "options": options}}),
        }[form]
        (answer,) = Service(Oracle(), settings).answer([request])
        return answer.status

    assert status(settings) == 413
    assert status(replace(settings, max_image_bytes=len(image))) == 200
    if form != "raw":  # which has no options
        assert status(settings, tiles=SIDE) == 200
        assert status(replace(settings, max_tiled_bytes=9), tiles=SIDE) == 413


@pytest.mark.parametrize(
    ("operator", "request_", "most"),
    [
        ({}, {}, 100),
        ({}, {"tiles": SIDE}, 3000),
        ({}, {"tiles": SIDE, "max_detections": 100}, 100),
        ({"max_detections": 5}, {"tiles": SIDE}, 5),
        ({"tiles": SIDE}, {}, 3000),
        ({"tiles": SIDE, "max_detections": 5}, {}, 5),
    ],
)
def test_the_default_of_max_detections(operator: dict[str, int], request_: dict[str, int], most: int) -> None:
    defaults = parse_settings({"options": operator}, []).options
    assert parse_options(request_, [], defaults).max_detections == most
