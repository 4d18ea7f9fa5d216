"""Batches: mixed, failing, out of memory. No TorchServe, no network."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Barrier
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from handler.api.options import IMAGE_OUTPUTS, MASK_FORMATS, OUTPUTS, Options, parse_options
from handler.api.responses import select
from handler.api.settings import Settings, parse_settings
from handler.errors import SettingsError
from handler.model import Detections, Wanted
from handler.model.failures import is_broken_gpu, is_out_of_memory
from handler.service import Answer, Request, Service
from tests.handler.awkward import HEIGHT, WIDTH, corners, save
from tests.handler.toys import FakePredictor, blob_detections

JPEG = save(corners(), "JPEG")
FORM = "multipart/form-data; boundary=x"
GOOD, JUNK = Request({"body": JPEG}, id="good"), Request({"body": b"junk"}, id="junk")
TALL = Request({"body": save(corners().resize((90, 150)), "PNG")}, id="tall")
WRONG = Request({"image": JPEG, "output": b"xml"}, FORM, "wrong")


def form(**options: str) -> Request:
    return Request({"image": JPEG, **{name: value.encode() for name, value in options.items()}}, FORM, "r")


def ask(service: Service, request: Request) -> Any:
    (answer,) = service.answer([request])
    assert answer.status == 200, answer.body
    return json.loads(answer.body) if answer.content_type == "application/json" else answer.body


def changed(change: Callable[[list[Detections]], list[Detections]], count: int = 1) -> Service:
    """A service whose predictor's results went through ``change``."""

    class Changed(FakePredictor):
        def predict(self, images: Sequence[np.ndarray], wanted: object = None) -> list[Detections]:
            return change(super().predict(images))

    return Service(Changed(count), Settings())


def statuses(answers: list[Answer]) -> list[int]:
    return [answer.status for answer in answers]


def test_json_has_the_shape_of_the_contract() -> None:
    document = ask(Service(FakePredictor(3), Settings()), form())
    assert list(document) == ["model", "image", "instances", "mask_fraction", "timings_ms"]
    assert document["model"] == {"name": "maskrcnn", "version": "toy", "weights_sha256": "0" * 64}
    assert document["image"] == {"width": WIDTH, "height": HEIGHT}
    assert list(document["timings_ms"]) == ["decode", "inference", "postprocess"]
    covered = np.zeros((HEIGHT, WIDTH), bool)
    for i, instance in enumerate(document["instances"]):
        assert list(instance) == ["id", "class_id", "class_name", "score", "box", "area", "mask"]
        assert (instance["id"], instance["class_id"], instance["class_name"]) == (i, 0, "balloon")
        mask = coco_mask.decode(instance["mask"])
        assert mask.shape == (HEIGHT, WIDTH)
        assert mask.sum() == instance["area"] > 0
        covered |= mask > 0
    assert document["mask_fraction"] == pytest.approx(covered.mean(), abs=1e-6)
    scores = [instance["score"] for instance in document["instances"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


def test_overlapping_masks_count_once() -> None:
    document = ask(changed(lambda found: [found[0][np.array([0, 0])]]), form())
    (area, _) = (instance["area"] for instance in document["instances"])
    assert document["mask_fraction"] == pytest.approx(area / (HEIGHT * WIDTH), abs=1e-6)


def test_a_mask_does_not_uncover_what_lies_under_its_box() -> None:
    boxes = np.array([[0, 0, WIDTH, HEIGHT], [5, 5, 30, 30]], np.float32)
    masks = np.stack([np.ones((28, 28)), np.zeros((28, 28))]).astype(np.float32)
    two = Detections(boxes, np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64), masks)
    assert ask(changed(lambda _: [two]), form())["mask_fraction"] == 1.0


def test_nothing_found_is_an_answer_in_every_output() -> None:
    service = Service(FakePredictor(0), Settings())
    assert ask(service, form())["instances"] == []
    assert ask(service, form())["mask_fraction"] == 0.0
    assert ask(service, form(output="coco")) == []
    for output in IMAGE_OUTPUTS:
        assert ask(service, form(output=output))[:4] == b"\x89PNG"


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("mask_format", MASK_FORMATS)
def test_every_output_in_every_mask_format(output: str, mask_format: str) -> None:
    service = Service(FakePredictor(3, ["balloon", "kite"]), Settings())
    request = form(output=output, mask_format=mask_format)
    if (output, mask_format) == ("coco", "png"):
        assert statuses(service.answer([request])) == [400]
        return
    answer = ask(service, request)
    if output in IMAGE_OUTPUTS:
        pixels = cv2.imdecode(np.frombuffer(answer, np.uint8), cv2.IMREAD_UNCHANGED)
        assert pixels.shape == ((HEIGHT, WIDTH) if output == "labels" else (HEIGHT, WIDTH, 3))
        assert output != "labels" or set(np.unique(pixels)) == {0, 1, 2, 3}
    elif output == "coco":
        assert {result["category_id"] for result in answer} <= {1, 2}
        assert {"segmentation" in result for result in answer} == {mask_format != "none"}
    else:
        keys = {"rle": {"size", "counts"}, "polygon": {"size", "polygons"}, "png": {"size", "png"}}
        for instance in answer["instances"]:
            assert set(instance.get("mask", {})) == keys.get(mask_format, set())
            assert instance["area"] > 0


def test_coco_results_load_in_pycocotools() -> None:
    truth = COCO()
    image = {"id": 0, "width": WIDTH, "height": HEIGHT}
    truth.dataset = {"images": [image], "categories": [{"id": 1}], "annotations": []}
    truth.createIndex()
    loaded = truth.loadRes(ask(Service(FakePredictor(3), Settings()), form(output="coco")))
    assert len(loaded.anns) == 3
    for annotation in loaded.anns.values():
        x, y, w, h = annotation["bbox"]
        mx, my, mw, mh = coco_mask.toBbox(annotation["segmentation"])
        assert min(mx - x, my - y, x + w - mx - mw, y + h - my - mh) >= -1


def test_select() -> None:
    detections = blob_detections(20, 100, 100, classes=3)
    detections.boxes[4] = np.nan
    chosen = select(detections, Options(score_threshold=0.6, max_detections=4, classes=frozenset({0, 2})))
    wanted = (detections.scores >= 0.6) & (detections.class_ids != 1) & (np.arange(20) != 4)
    np.testing.assert_array_equal(chosen.scores, detections.scores[wanted][:4])
    assert len(chosen.masks) == len(chosen.boxes) == len(chosen.class_ids) == 4


def test_one_bad_request_never_harms_another() -> None:
    predictor = FakePredictor(2)
    answers = Service(predictor, Settings()).answer([JUNK, GOOD, WRONG, TALL, JUNK])
    assert statuses(answers) == [415, 200, 400, 200, 415]
    assert predictor.batches == [[(HEIGHT, WIDTH, 3), (150, 90, 3)]]  # the good ones went as one batch
    assert json.loads(answers[3].body)["image"] == {"width": 90, "height": 150}
    ends = [(answer.outcome, answer.reason) for answer in answers[:3]]
    assert ends[1] == ("answered", "none")
    assert ends[::2] == [("refused", "unsupported_media_type"), ("refused", "invalid_option")]


def test_the_predictor_is_asked_for_what_each_request_needs() -> None:
    predictor = FakePredictor(1, ["balloon", "kite"])
    requests = [
        form(score_threshold="0.7", max_detections="3", classes="kite"),
        form(output="coco", mask_format="none"),
        form(mask_format="none"),  # JSON has the mask's area
        form(output="overlay", mask_format="none"),
    ]
    Service(predictor, Settings()).answer(requests)
    assert predictor.wanted == [
        Wanted(0.7, 3, frozenset({1})),
        Wanted(0.5, 100, masks=False),
        *[Wanted(0.5, 100)] * 2,
    ]


def test_a_batch_is_decoded_side_by_side() -> None:
    predictor = FakePredictor()
    predictor.threads = 2
    service, together = Service(predictor, Settings(), batch_size=2), Barrier(2, timeout=60)
    decode = service.decode
    service.decode = lambda request: (together.wait(), decode(request))[1]  # type: ignore[method-assign]
    assert statuses(service.answer([GOOD, JUNK])) == [200, 415]


@pytest.mark.parametrize(
    ("request_", "settings", "factor"),
    [
        (GOOD, Settings(), 2),
        (form(output="coco"), Settings(), 2),
        (form(output="overlay"), Settings(), 1),
        (Request({"body": save(corners(), "PNG")}), Settings(), 1),
        (GOOD, Settings(half_size_jpegs=False), 1),
    ],
    ids=["JPEG", "coco", "overlay", "PNG", "switched off"],
)
def test_large_jpegs_are_decoded_at_half_size(request_: Request, settings: Settings, factor: int) -> None:
    class Small(FakePredictor):
        def network_shape(self, height: int, width: int) -> tuple[int, int]:
            return height // 2, width // 2

    predictor = Small(1)
    (answer,) = Service(predictor, settings).answer([request_])
    assert predictor.batches == [[(HEIGHT // factor, WIDTH // factor, 3)]]
    if answer.content_type == "application/json" and b"instances" in answer.body:
        document = json.loads(answer.body)
        assert document["image"] == {"width": WIDTH, "height": HEIGHT}
        expected = blob_detections(1, HEIGHT // factor, WIDTH // factor).boxes[0] * factor
        assert document["instances"][0]["box"] == pytest.approx(expected.tolist(), abs=0.01)


def test_scores_for_the_metrics_do_not_depend_on_a_lower_threshold() -> None:
    service = Service(FakePredictor(9), Settings(options=Options(score_threshold=0.8)))
    usual, low = service.answer([form(), form(score_threshold="0.1")])
    assert len(usual.scores) == usual.instances < low.instances == 9
    assert low.scores == usual.scores


def test_a_batch_without_a_good_request_never_reaches_the_network() -> None:
    predictor = FakePredictor()
    assert statuses(Service(predictor, Settings()).answer([JUNK, WRONG])) == [415, 400]
    assert Service(predictor, Settings()).answer([]) == []
    assert predictor.batches == []


class Picky(FakePredictor):
    """Fails on batches larger than ``most`` and on images taller than 100 pixels."""

    def __init__(self, most: int, error: Exception) -> None:
        super().__init__(1)
        self.most, self.error = most, error

    def predict(self, images: Sequence[np.ndarray], wanted: object = None) -> list[Detections]:
        result = super().predict(images)
        if len(images) > self.most or any(image.shape[0] > 100 for image in images):
            raise self.error
        return result


OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda e: type(e).__name__)
def test_out_of_memory_is_tried_again_one_by_one(error: Exception) -> None:
    predictor = Picky(1, error)
    answers = Service(predictor, Settings()).answer([GOOD, TALL, GOOD])
    assert statuses(answers) == [200, 503, 200]
    assert [len(batch) for batch in predictor.batches] == [3, 1, 1, 1]
    refusal = json.loads(answers[1].body)["error"]
    assert (refusal["code"], refusal["field"]) == ("out_of_memory", "image")
    assert "CUDA" not in refusal["message"]  # TorchServe would take the worker for dead
    assert is_out_of_memory(error)


def test_internal_errors_show_nothing(caplog: pytest.LogCaptureFixture) -> None:
    error = KeyError("/secret/path")
    with caplog.at_level(logging.INFO, "handler"):
        answers = Service(Picky(1, error), Settings()).answer([GOOD, TALL])
    assert statuses(answers) == [200, 500]
    assert b"secret" not in answers[1].body
    assert json.loads(answers[1].body)["error"]["code"] == "internal_error"
    assert "request tall failed" in caplog.text
    assert "/secret/path" in caplog.text  # the log has it
    for other in (RuntimeError("CUDA error: device-side assert"), ValueError("out of memory")):
        assert not is_out_of_memory(other)


BROKEN_GPU = [
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
]


@pytest.mark.parametrize("error", BROKEN_GPU, ids=lambda e: type(e).__name__)
def test_a_broken_gpu_is_not_asked_again(error: Exception) -> None:
    predictor = Picky(0, error)
    service = Service(predictor, Settings())
    assert statuses(service.answer([GOOD, JUNK, GOOD])) == [500, 415, 500]
    assert [len(batch) for batch in predictor.batches] == [2]
    assert service.broken


def test_a_gpu_that_breaks_while_photos_are_tried_again_is_left_alone() -> None:
    class Breaking(FakePredictor):
        def predict(self, images: Any, wanted: Any = None) -> Any:
            self.batches.append([image.shape for image in images])
            raise OUT_OF_MEMORY[1] if len(images) > 1 else BROKEN_GPU[0]

    predictor = Breaking()
    assert statuses(Service(predictor, Settings()).answer([GOOD, GOOD, GOOD])) == [500] * 3
    assert [len(batch) for batch in predictor.batches] == [3, 1]


def test_memory_that_cannot_be_released_shows_a_broken_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise BROKEN_GPU[0]

    monkeypatch.setattr("handler.service.release_memory", fail)
    service = Service(Picky(0, OUT_OF_MEMORY[1]), Settings())
    assert statuses(service.answer([GOOD, GOOD])) == [503, 503]
    assert service.broken


REFUSED_CALLS = [
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    torch.AcceleratorError("CUDA error: invalid configuration argument"),
]


@pytest.mark.parametrize(
    "error", [*OUT_OF_MEMORY, *REFUSED_CALLS, KeyError("CUDA error"), RuntimeError("shapes")], ids=str
)
def test_other_errors_break_no_gpu(error: Exception) -> None:
    service = Service(Picky(0, error), Settings())
    service.answer([GOOD])
    assert not service.broken
    assert not is_broken_gpu(error)


def test_an_answer_that_is_too_long_is_refused() -> None:
    service = Service(FakePredictor(3), Settings(max_response_bytes=700))
    overlay, labels = service.answer([form(output="overlay"), form(output="labels")])
    assert (overlay.status, overlay.reason) == (422, "response_too_large")
    assert json.loads(overlay.body)["error"]["field"] == "output"
    assert labels.status == 200


def test_what_goes_wrong_while_encoding_harms_one_request() -> None:
    def spoil(found: list[Detections]) -> list[Detections]:
        good, bad = found
        return [good, Detections(bad.boxes, bad.scores, bad.class_ids + 9, bad.masks)]  # no such class

    assert statuses(changed(spoil).answer([GOOD, GOOD])) == [200, 500]


def test_a_predictor_that_loses_a_result_shortens_no_batch() -> None:
    assert statuses(changed(lambda found: found[1:]).answer([GOOD, JUNK, GOOD])) == [500, 415, 500]


def test_warm_up_runs_the_sizes_and_fails_loudly() -> None:
    predictor = FakePredictor()
    Service(predictor, Settings(warmup=((40, 60), (70, 50))), 8).warm_up()
    assert predictor.warmed == [((40, 60, 3), 8), ((70, 50, 3), 8)]
    assert predictor.batches == [[(40, 60, 3)], [(70, 50, 3)]]
    with pytest.raises(RuntimeError, match="warm-up at 40 × 60"):
        Service(Picky(0, ValueError("x")), Settings(warmup=((40, 60),))).warm_up()


@pytest.mark.parametrize("error", [*OUT_OF_MEMORY, *BROKEN_GPU], ids=lambda e: type(e).__name__)
def test_a_batch_that_does_not_fit_keeps_no_model_from_loading(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise error

    predictor = FakePredictor()
    monkeypatch.setattr(predictor, "warm_up", fail)
    service = Service(predictor, Settings(warmup=((40, 60),)), 8)
    if error in BROKEN_GPU:
        with pytest.raises(type(error)):
            service.warm_up()
        return
    service.warm_up()
    assert "8 images of 40 × 60 do not fit into memory: lower batchSize" in caplog.text
    assert predictor.batches == [[(40, 60, 3)]]


def test_description() -> None:
    predictor = FakePredictor()
    predictor.card |= {"evaluation": {"segm_AP": 62.1}, "served": {"segm_AP_loss": 0.2}}
    answer = Service(predictor, Settings(options=Options(score_threshold=0.7))).describe()
    document = json.loads(answer.body)
    assert (answer.status, answer.outcome) == (200, "described")
    assert document["classes"] == ["balloon"]
    assert (document["evaluation"], document["served"]) == ({"segm_AP": 62.1}, {"segm_AP_loss": 0.2})
    assert document["running"] == {"engine": "toy", "precision": "fp32", "threads": 1, "device": "cpu"}
    usual = {"max_image_bytes": 20_971_520, "max_image_pixels": 25_000_000, "max_response_bytes": 62_914_560}
    tiled = {"max_tiled_bytes": 67_108_864, "max_tiled_pixels": 100_000_000, "max_tiles": 200}
    assert document["limits"] == usual | tiled
    defaults = {option["name"]: option["default"] for option in document["options"]}
    assert list(defaults.values()) == [0.7, 100, "all", "rle", "json", 0]


def test_settings() -> None:
    assert parse_settings(None, ["balloon"]) == Settings()
    given = {"precision": "fp32", "threads": None, "warmup": [[32, 64]], "options": {"score_threshold": 0.7}}
    expected = Settings(precision="fp32", warmup=((32, 64),), options=Options(score_threshold=0.7))
    assert parse_settings(given, ["balloon"]) == expected
    assert parse_settings({"warmup": None}, []).warmup == ()


POINT = {"score_threshold": 0.8, "per_class": {"door": 0.6}, "suppression_iou": 0.5, "chosen_by": "best F1"}


def test_the_operating_point_is_the_default() -> None:
    classes = ["door", "bumper"]
    options = parse_settings(None, classes, POINT).options
    assert options == Options(0.8, {0: 0.6}, 0.5)
    assert (options.wanted.score_threshold, options.wanted.max_detections) == (0.6, 300)
    assert parse_options({"score_threshold": 0.3}, classes, options) == Options(0.3, {}, 0.5)
    given = {"options": {"score_threshold": 0.7}}
    assert parse_settings(given, classes, POINT).options == Options(0.7, {}, 0.5)

    place = [[0, 0, 20, 20], [0, 0, 20, 19], [50, 0, 70, 20], [50, 50, 70, 70], [0, 50, 20, 70]]
    found = Detections(
        boxes=np.array(place, np.float32),
        scores=np.array([0.95, 0.9, 0.7, 0.65, 0.5], np.float32),
        class_ids=np.array([1, 0, 1, 0, 0]),
        masks=np.zeros((5, 28, 28), np.float32),
    )
    chosen = select(found, options)  # a second one of a place; a bumper below 0.8; a door below 0.6
    assert chosen.scores.tolist() == pytest.approx([0.95, 0.65])
    assert select(found, replace(options, max_detections=1)).scores.tolist() == pytest.approx([0.95])
    # neither a higher threshold nor a choice of classes brings to light what was suppressed
    for others in ({"score_threshold": 0.97}, {"classes": frozenset({0})}):
        assert select(found, replace(options, **others)).scores.tolist() == pytest.approx([0.65])


@pytest.mark.parametrize(
    "damage",
    [
        {"score_threshold": "high"},
        {"per_class": {"dog": 0.5}},
        {"per_class": None},
    ],
    ids=str,
)
def test_a_damaged_operating_point_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(
        SettingsError, match=r"operating point in archive\.json cannot be read .*: export it again"
    ):
        parse_settings(None, ["door", "bumper"], POINT | damage)


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"presicion": "fp32"}, "presicion"),
        *(({"threads": value}, "handler.threads") for value in (0, "two")),
        ({"max_image_bytes": None}, "handler.max_image_bytes"),
        *(({name: "yes"}, f"handler.{name}") for name in ("cuda_graphs", "half_size_jpegs")),
        *(({"max_image_pixels": value}, "handler.max_image_pixels") for value in (1.5, 180_000_000)),
        *(({"max_tiled_pixels": value}, "handler.max_tiled_pixels") for value in (0, 180_000_000)),
        ({"max_tiles": 0}, "handler.max_tiles"),
        ({"max_response_bytes": True}, "handler.max_response_bytes"),
        *(({"warmup": value}, "handler.warmup") for value in ([32, 64], [[32, 0]])),
        ({"options": {"score_threshold": 2}}, "score_threshold"),
        ({"options": {"tiles": 50}}, "tiles"),
        ({"options": {"classes": ["dog"]}}, "dog"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named(section: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=r"^model-config\.yaml: .*" + named):
        parse_settings(section, ["balloon"])


def test_base64_and_raw_bodies_give_the_same_answer() -> None:
    service = Service(FakePredictor(3), Settings())
    encoded = Request({"body": {"image": base64.b64encode(JPEG).decode()}}, "application/json")
    assert ask(service, GOOD)["instances"] == ask(service, encoded)["instances"]
