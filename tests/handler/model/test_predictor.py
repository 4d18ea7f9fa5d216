import copy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import Instances
from torch import nn

from handler.archive import open_archive
from handler.errors import EngineError
from handler.model import Detections, Wanted
from handler.model.predictor import Predictor
from handler.model.preprocess import resize
from tests.toy_models import TINY, photo, quiet_detectron2, write_unpacked_archive

PHOTOS = [photo(120, 160, seed=1), photo(96, 96, seed=2), photo(300, 150, seed=3)]


def detectron2s(model: nn.Module, image: np.ndarray) -> Instances:
    """What Detectron2 itself answers for an RGB image; boxes in its pixels, masks 28 × 28."""
    # resized by us: test_preprocess compares the pixels, and random layers make much of one level in one pixel
    resized = resize(image, ResizeShortestEdge.get_output_shape(*image.shape[:2], 96, 160))
    tensor = resized.flip(2).permute(2, 0, 1).float()
    with torch.no_grad(), quiet_detectron2():
        found = model.inference([{"image": tensor}], do_postprocess=False)[0]
    found.pred_boxes.scale(image.shape[1] / tensor.shape[2], image.shape[0] / tensor.shape[1])
    found.pred_boxes.clip(image.shape[:2])
    return found[found.pred_boxes.nonempty()]


def assert_same(found: Detections, expected: Instances, *, boxes: float, scores: float, masks: float) -> None:
    """Equal to tolerances: ``boxes`` in pixels, ``scores`` and ``masks`` in probability."""
    assert len(found.scores) == len(expected) > 0
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=scores)
    np.testing.assert_allclose(found.boxes, expected.pred_boxes.tensor, rtol=0, atol=boxes)
    np.testing.assert_array_equal(found.class_ids, expected.pred_classes)
    np.testing.assert_allclose(found.masks, expected.pred_masks[:, 0], rtol=0, atol=masks)


@pytest.fixture(scope="module")
def fp32(toy: tuple[Path, nn.Module]) -> Predictor:
    return Predictor.load(toy[0], device="cpu", precision="fp32", engine="torch")


@pytest.mark.parametrize("image", PHOTOS, ids=lambda image: f"{image.shape[1]}x{image.shape[0]}")
def test_fp32_equals_detectron2(toy: tuple[Path, nn.Module], fp32: Predictor, image: np.ndarray) -> None:
    (found,) = fp32.predict([image])
    assert_same(found, detectron2s(toy[1], image), boxes=0.01, scores=1e-3, masks=0.01)


def test_the_output_is_what_the_interface_says(fp32: Predictor) -> None:
    for image, found in zip(PHOTOS, fp32.predict(PHOTOS), strict=True):
        count = len(found.scores)
        assert (found.boxes.shape, found.boxes.dtype) == ((count, 4), np.float32)
        assert (found.scores.shape, found.scores.dtype) == ((count,), np.float32)
        assert (found.class_ids.shape, found.class_ids.dtype) == ((count,), np.int64)
        assert (found.masks.shape, found.masks.dtype) == ((count, 28, 28), np.float32)
        assert 0 < count <= 300
        assert np.all(np.diff(found.scores) <= 0)
        assert found.scores.min() > 0.05
        assert found.boxes.min() >= 0
        assert np.all(found.boxes[:, 2:] <= (image.shape[1], image.shape[0]))
        assert np.all(found.boxes[:, 2:] > found.boxes[:, :2])
        assert 0 <= found.masks.min() < found.masks.max() <= 1


def test_a_mixed_batch_equals_one_by_one(fp32: Predictor) -> None:
    for together, image in zip(fp32.predict(PHOTOS), PHOTOS, strict=True):
        (alone,) = fp32.predict([image])
        np.testing.assert_array_equal(together.boxes, alone.boxes)
        np.testing.assert_array_equal(together.masks, alone.masks)


def test_images_padded_together_find_the_same(toy: tuple[Path, nn.Module], fp32: Predictor) -> None:
    # a GPU's way, tried on the CPU: one batch of two sizes, the smaller padded
    images = [photo(96, 128, seed=4), photo(96, 120, seed=5)]
    with torch.inference_mode():
        shapes, everything = [image.shape[:2] for image in images], [Wanted()] * len(images)
        batch = fp32._run([torch.from_numpy(i) for i in images], shapes, everything)
        for image, found in zip(images, batch, strict=True):
            expected = detectron2s(toy[1], image)
            # padding reaches past the border only, so strong detections stay where they were
            assert abs(len(found) - len(expected)) <= 3
            np.testing.assert_allclose(found.scores[:3], expected.scores[:3], atol=0.02)


def test_nothing_found_has_the_mask_heads_shape(tmp_path: Path) -> None:
    write_unpacked_archive(tmp_path, overrides=[*TINY, "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", "7"])
    predictor = Predictor.load(tmp_path, device="cpu", precision="fp32", engine="torch")
    (found,) = predictor.predict([PHOTOS[0]])
    predictor._roi_heads._predictor.test_score_thresh = 1.0
    (nothing,) = predictor.predict([PHOTOS[0]])
    assert nothing.boxes.shape == (0, 4)
    assert found.masks.shape[1:] == nothing.masks.shape[1:] == (14, 14)


def test_only_what_is_wanted_is_computed(fp32: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = fp32.predict(PHOTOS)
    middle = float(np.median(everything[0].scores))
    some = int(everything[1].class_ids[0])
    wanted = [
        Wanted(score_threshold=middle),
        Wanted(classes=frozenset({some}), max_detections=2),
        Wanted(max_detections=3, masks=False),
    ]
    kept = [
        np.flatnonzero(everything[0].scores >= middle),
        np.flatnonzero(everything[1].class_ids == some)[:2],
        np.arange(3),
    ]
    assert all(0 < len(index) < len(found) for index, found in zip(kept, everything, strict=True))
    masks_computed = []
    layers = fp32._roi_heads._mask_layers
    monkeypatch.setattr(
        fp32._roi_heads, "_mask_layers", lambda x: (masks_computed.append(len(x)), layers(x))[1]
    )
    for found, index, whole in zip(fp32.predict(PHOTOS, wanted), kept, everything, strict=True):
        for name in "boxes scores class_ids".split():
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name)[index])
        if found.masks.any():
            np.testing.assert_array_equal(found.masks, whole.masks[index])
    assert masks_computed == [len(kept[0]), len(kept[1])]


def test_one_batch_may_want_different_things(fp32: Predictor) -> None:
    # a GPU's way, tried on the CPU: the photos share the mask head
    images = [torch.from_numpy(photo(96, 128, seed=seed)) for seed in (4, 5, 6)]
    shapes = [(96, 128)] * 3
    with torch.inference_mode():
        whole = fp32._run(images, shapes, [Wanted()] * 3)
        first, second, third = fp32._run(
            images, shapes, [Wanted(max_detections=2), Wanted(masks=False), Wanted(max_detections=1)]
        )
    assert [len(first), len(second), len(third)] == [2, len(whole[1]), 1]
    assert second.masks.shape == whole[1].masks.shape
    assert not second.masks.any()
    np.testing.assert_array_equal(first.masks, whole[0].masks[:2])
    np.testing.assert_array_equal(third.masks, whole[2].masks[:1])


def test_an_empty_batch_is_no_error(fp32: Predictor) -> None:
    assert fp32.predict([]) == []


def test_a_wanted_for_no_image_is_an_error(fp32: Predictor) -> None:
    with pytest.raises(ValueError, match="2 `wanted` for 1 images"):
        fp32.predict(PHOTOS[:1], [Wanted()] * 2)


def test_bf16_is_close_to_fp32(tmp_path: Path) -> None:
    # VoVNet-19 is shallow: through 50 random layers of the others, rounding grows too much to compare boxes
    write_unpacked_archive(tmp_path, "vovnet19_fpn")
    fp32, bf16 = (
        Predictor.load(tmp_path, device="cpu", precision=p, engine="torch") for p in ("fp32", "bf16")
    )
    assert bf16.precision == "bf16"
    (exact,), (rounded,) = fp32.predict([PHOTOS[0]]), bf16.predict([PHOTOS[0]])
    nearest = np.abs(rounded.boxes - exact.boxes[0]).max(axis=1).argmin()
    np.testing.assert_allclose(rounded.boxes[nearest], exact.boxes[0], atol=2)
    assert abs(rounded.scores[nearest] - exact.scores[0]) < 0.1
    assert 0 < np.abs(rounded.masks[nearest] - exact.masks[0]).mean() < 0.05


@pytest.mark.parametrize(("device", "counts"), [("cpu", [1]), ("meta", [1, 2, 3])])
def test_the_warm_up_reaches_the_mask_head_with_every_batch_size(
    fp32: Predictor, monkeypatch: pytest.MonkeyPatch, device: str, counts: list[int]
) -> None:
    # "meta" stands for a device that runs batches; the tensors stay on the CPU
    monkeypatch.setattr("handler.model.predictor.resize", lambda image, shape, _: resize(image, shape))
    predictor, batches, masks = copy.copy(fp32), [], []
    layers = fp32._roi_heads._mask_layers
    monkeypatch.setattr(
        predictor, "_propose_in", lambda images: (batches.append(len(images)), fp32._propose_in(images))[1]
    )
    monkeypatch.setattr(fp32._roi_heads, "_mask_layers", lambda x: (masks.append(len(x)), layers(x))[1])
    predictor.device = torch.device(device)
    predictor.warm_up(np.full((96, 128, 3), 128, np.uint8), 3)
    assert batches == counts
    assert masks == [10 * count for count in counts], "gray shows nothing, yet there are masks"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_threads_are_bounded_on_every_device(
    toy: tuple[Path, nn.Module], monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    class Stop(Exception):
        pass

    def stop(folder: Path) -> None:
        raise Stop

    bounded: list[tuple[str, int]] = []
    monkeypatch.setattr(torch, "set_num_threads", lambda count: bounded.append(("torch", count)))
    monkeypatch.setattr(cv2, "setNumThreads", lambda count: bounded.append(("cv2", count)))
    monkeypatch.setattr("handler.model.predictor.open_archive", stop)
    with pytest.raises(Stop):
        Predictor.load(toy[0], device=device, threads=3)
    assert bounded == [("torch", 3), ("cv2", 3)]


@pytest.mark.parametrize(("gain", "precision"), [(1.0, "fp16"), (1e5, "bf16")])
def test_fp16_gives_way_to_bf16_where_features_overflow(
    toy: tuple[Path, nn.Module],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    gain: float,
    precision: str,
) -> None:
    monkeypatch.setattr("handler.model.predictor.choose_dtype", lambda *_: torch.float16)  # as on a GPU
    archive = open_archive(toy[0])
    for name, weight in archive.weights.items():
        if "fpn_output" in name:
            weight.mul_(gain)
    monkeypatch.setattr("handler.model.predictor.open_archive", lambda _: archive)
    assert Predictor.load(toy[0], device="cpu", engine="torch").precision == precision
    assert ("too large for fp16" in caplog.text) == (precision == "bf16")


def test_unknown_engine_is_refused(toy: tuple[Path, nn.Module]) -> None:
    with pytest.raises(EngineError, match="'tensorrt'"):
        Predictor.load(toy[0], device="cpu", engine="tensorrt")


def test_openvino_without_its_model_is_refused(toy: tuple[Path, nn.Module]) -> None:
    with pytest.raises(EngineError, match="no OpenVINO model"):
        Predictor.load(toy[0], device="cpu", engine="openvino")
