"""AP equals pycocotools' own, intervals contain their estimate, empty size ranges are None."""

import contextlib
import io

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval

from finetune.configs.keys import get_config
from finetune.evaluation.coco_eval import (
    average_precision,
    bootstrap,
    coco_index,
    evaluate_results,
    ground_truth,
    match,
    summarize,
)
from finetune.evaluation.inference import crop_to_rle, evaluate_model, predict, to_coco_results
from finetune.evaluation.operating_point import OperatingPoint
from finetune.evaluation.photo_scores import confusion, image_scores, totals

SIDE = 240


def rectangle(x, y, w, h):
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def dataset(rng, images=8, classes=2, sizes=(10, 150)):
    """Photos full of rectangles of both small and large sides."""
    records = []
    for image_id in range(images):
        annotations = []
        for _ in range(rng.integers(0, 6)):
            w, h = rng.integers(*sizes, 2)
            x, y = rng.integers(0, SIDE - w), rng.integers(0, SIDE - h)
            annotations.append(annotation(*map(int, (x, y, w, h)), int(rng.integers(classes))))
        record = {"file_name": "", "image_id": 10 * image_id, "height": SIDE, "width": SIDE}
        records.append(record | {"annotations": annotations})
    return records


def annotation(x, y, w, h, class_id=0):
    return {
        "bbox": [x, y, x + w, y + h],
        "category_id": class_id,
        "segmentation": rectangle(x, y, w, h),
    }


def result(record, x, y, w, h, class_id, score):
    rle = coco_mask.merge(coco_mask.frPyObjects(rectangle(x, y, w, h), SIDE, SIDE))
    found = {"category_id": class_id + 1, "bbox": [x, y, w, h], "score": score, "segmentation": rle}
    return {"image_id": record["image_id"]} | found


def perfect(records):
    for record in records:
        for a in record["annotations"]:
            x1, y1, x2, y2 = a["bbox"]
            yield result(record, x1, y1, x2 - x1, y2 - y1, a["category_id"], 0.9)


def noisy(records, rng):
    """Shifted boxes, missed ones, wrong classes, false alarms, equal scores."""
    for record in records:
        for a in record["annotations"]:
            x1, y1, x2, y2 = a["bbox"]
            if rng.random() < 0.8:
                shift = rng.integers(-4, 5, 2)
                class_id = a["category_id"] if rng.random() < 0.9 else 1 - a["category_id"]
                score = round(float(rng.random()), 1)
                yield result(record, x1 + shift[0], y1 + shift[1], x2 - x1, y2 - y1, class_id, score)
        for _ in range(rng.integers(0, 3)):
            x, y, w, h = rng.integers(10, 90, 4)
            yield result(record, x, y, w, h, int(rng.integers(2)), round(float(rng.random()), 1))


def scored(records, shown):
    """One score per photo."""
    _, evaluator = match(ground_truth(records, ["a", "b"]), shown, "segm")
    return image_scores(evaluator, [record["image_id"] for record in records])


def coco_says(truth, results, kind):
    def area(r):
        return float(coco_mask.area(r["segmentation"])) if kind == "segm" else r["bbox"][2] * r["bbox"][3]

    detections = [{**r, "id": i, "iscrowd": 0, "area": area(r)} for i, r in enumerate(results, start=1)]
    found = coco_index(truth.dataset["images"], detections, truth.dataset["categories"])
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(truth, found, kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats[:6]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_equal_to_pycocotools(seed, kind):
    rng = np.random.default_rng(seed)
    records = dataset(rng)
    results = list(noisy(records, rng))
    truth = ground_truth(records, ["a", "b"])
    ours = summarize(match(truth, results, kind)[0])
    theirs = dict(
        zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), coco_says(truth, results, kind), strict=True)
    )
    assert ours == {name: None if v == -1 else pytest.approx(100 * v, abs=0.01) for name, v in theirs.items()}
    assert 5 < ours["AP50"] < 95  # the case is neither empty nor perfect


def test_weights_are_repeated_photos():
    # a resampled set of photos is computed by weights: the same as really repeating the photos
    rng = np.random.default_rng(3)
    records = dataset(rng)
    results = list(noisy(records, rng))
    weights = np.array([2, 0, 1, 3, 0, 1, 1, 0])
    weighted = average_precision(match(ground_truth(records, "ab"), results, "segm")[0][""], weights)

    copies, copied_results = [], []
    for record, weight in zip(records, weights, strict=True):
        own = [r for r in results if r["image_id"] == record["image_id"]]
        for image_id in range(record["image_id"], record["image_id"] + weight):
            copies.append(record | {"image_id": image_id})
            copied_results += [r | {"image_id": image_id} for r in own]
    repeated = average_precision(match(ground_truth(copies, "ab"), copied_results, "segm")[0][""])
    np.testing.assert_allclose(weighted, repeated)


def test_perfect_predictions():
    records = dataset(np.random.default_rng(0))
    report, _ = evaluate_results(records, list(perfect(records)), ["a", "b"], resamples=50)
    scores = scored(records, list(perfect(records)))
    for kind in ("segm", "bbox"):
        assert report[kind]["AP"] == report[kind]["AP50"] == report[kind]["AP75"] == 100
        assert report[kind]["intervals"]["AP"] == [100, 100]
    assert totals(scores)["found"] == report["objects"] > 5
    assert (totals(scores)["missed"], totals(scores)["false"]) == (0, 0)
    assert all(s.quality == pytest.approx(1) for s in scores)


def test_nothing_predicted():
    records = dataset(np.random.default_rng(0))
    report, _ = evaluate_results(records, [], ["a", "b"], resamples=50)
    scores = scored(records, [])
    assert report["segm"]["AP"] == 0
    assert totals(scores)["recall"] == 0
    assert totals(scores)["precision"] is None
    assert [s.quality for s in scores] == [0.0 if r["annotations"] else 1.0 for r in records]


def test_empty_size_class_is_none():
    records = dataset(np.random.default_rng(0), sizes=(100, 150))  # 100² is large already
    report, _ = evaluate_results(records, list(perfect(records)), ["a", "b"], resamples=10)
    assert (report["segm"]["APs"], report["segm"]["APm"], report["segm"]["APl"]) == (None, None, 100)


def test_no_objects_at_all():
    records = [record | {"annotations": []} for record in dataset(np.random.default_rng(0))]
    report, _ = evaluate_results(records, [], ["a"], resamples=10)
    assert report["segm"]["AP"] is None
    assert report["segm"]["intervals"]["AP"] is None


def test_bootstrap_interval():
    rng = np.random.default_rng(1)
    records = dataset(rng, images=20)
    matches, _ = match(ground_truth(records, "ab"), list(noisy(records, rng)), "segm")
    alone = np.arange(len(records))
    estimate, intervals = summarize(matches), bootstrap(matches, alone)
    for name in ("AP", "AP50", "AP75"):
        low, high = intervals[name]
        assert low < estimate[name] < high
    assert bootstrap(matches, alone) == intervals  # seeded
    one_photo = match(ground_truth(records[:1], "ab"), [], "segm")[0]
    assert bootstrap(one_photo, alone[:1], resamples=3)["AP"] == [0, 0]


def test_groups_are_resampled_together():
    """Twenty photos that are ten, each twice, have the interval of ten."""
    rng = np.random.default_rng(1)
    records = dataset(rng, images=10)
    results = list(noisy(records, rng))
    ten, *_ = evaluate_results(records, results, ["a", "b"])
    twice = [each | {"image_id": each["image_id"] + 100} for each in records] + records
    more = [each | {"image_id": each["image_id"] + 100} for each in results] + results
    groups = np.tile([record["image_id"] for record in records], 2)
    twenty, *_ = evaluate_results(twice, more, ["a", "b"], groups=groups)
    assert twenty["segm"]["intervals"]["AP"] == pytest.approx(ten["segm"]["intervals"]["AP"], abs=1)
    independent, *_ = evaluate_results(twice, more, ["a", "b"])
    (low, high), (low2, high2) = (each["segm"]["intervals"]["AP"] for each in (twenty, independent))
    assert high2 - low2 < 0.85 * (high - low), "independent photos would make it narrower"


def test_image_scores_by_hand():
    [record] = dataset(np.random.default_rng(0), images=1)
    record["annotations"] = [annotation(0, 0, 100, 100), annotation(120, 120, 100, 100)]
    results = [
        result(record, 0, 0, 100, 80, 0, 0.9),  # finds the first with IoU 0.8
        result(record, 150, 0, 50, 50, 0, 0.8),  # finds nothing
        result(record, 120, 120, 100, 100, 0, 0.4),  # too unsure
    ]
    shown = OperatingPoint(0.5).shown(results, ["a"])
    assert shown == results[:2]
    [score] = scored([record], shown)
    assert (score.objects, score.found, score.missed, score.false) == (2, 1, 1, 1)
    assert score.mean_iou == pytest.approx(0.8)
    assert score.f1 == 0.5
    assert score.quality == pytest.approx(0.4)
    assert (score.found_ids, score.right, score.wrong) == ((1,), (0,), (1,))
    assert totals([score]) == {
        "found": 1, "missed": 1, "false": 1, "precision": 50, "recall": 50, "mean_iou": 80,
    }  # fmt: skip


def test_image_scores_take_one_pass():
    records = dataset(np.random.default_rng(0), images=20)
    _, evaluator = match(ground_truth(records, "ab"), list(perfect(records)), "segm")
    passes = []

    class Counting(list):
        def __iter__(self):
            passes.append(1)
            return super().__iter__()

    evaluator.evalImgs = Counting(evaluator.evalImgs)
    assert len(image_scores(evaluator, [r["image_id"] for r in records])) == 20
    assert len(passes) == 1, "not one for each photo"


def test_crowds_are_neither_objects_nor_errors():
    [record] = dataset(np.random.default_rng(0), images=1)
    record["annotations"] = [annotation(0, 0, 100, 100) | {"iscrowd": 1}]
    results = [result(record, 0, 0, 100, 100, 0, 0.9)]
    report, _ = evaluate_results([record], results, ["a"], resamples=5)
    [score] = scored([record], results)
    assert not confusion(ground_truth([record], "a"), results, [score]).any()
    assert (score.objects, score.false) == (0, 0)
    assert report["segm"]["AP"] is None


def test_masks_are_pasted_where_detectron2_pastes_them():
    from detectron2.modeling.postprocessing import detector_postprocess

    torch.manual_seed(0)
    corners = torch.rand(12, 2) * 60
    boxes = torch.cat([corners - 10, corners + torch.rand(12, 2) * 40 + 1], dim=1)  # some leave the picture
    masks = torch.rand(12, 1, 28, 28)
    instances = Instances((64, 80), pred_boxes=Boxes(boxes), scores=torch.rand(12), pred_masks=masks)
    instances.pred_classes = torch.zeros(12, dtype=torch.int64)
    record = {"image_id": 5, "height": 131, "width": 170}
    results = to_coco_results(instances, record)
    by_score = instances[instances.scores.argsort(descending=True)]
    expected = detector_postprocess(by_score, 131, 170)
    assert len(results) == len(expected)
    for ours, mask, box in zip(results, expected.pred_masks, expected.pred_boxes, strict=True):
        difference = coco_mask.decode(ours["segmentation"]).astype(bool) ^ mask.numpy()
        assert difference.sum() <= 0.002 * mask.numel()  # rounding at the edges of random masks
        np.testing.assert_allclose(
            ours["bbox"], [box[0], box[1], box[2] - box[0], box[3] - box[1]], atol=1e-4
        )
    assert BitMasks(expected.pred_masks).tensor.any()


@pytest.fixture(scope="module")
def toy():
    torch.manual_seed(0)
    overrides = (
        "MODEL.DEVICE cpu INPUT.MIN_SIZE_TEST 64 MODEL.RPN.POST_NMS_TOPK_TEST 20 MODEL.FPN.OUT_CHANNELS 16 "
        "MODEL.ROI_BOX_HEAD.FC_DIM 16 MODEL.ROI_HEADS.NUM_CLASSES 2"
    )
    cfg = get_config("mobilenetv2_fpn", overrides.split())
    return build_model(cfg), cfg


def test_evaluate_model(toy, tmp_path, capsys):
    model, cfg = toy
    records = dataset(np.random.default_rng(0), images=3)
    for i, record in enumerate(records):
        Image.fromarray(np.full((SIDE, SIDE, 3), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
        record["file_name"] = str(tmp_path / f"{i}.png")
    model.train()
    report = evaluate_model(model, records, ["a", "b"], cfg)
    assert model.training
    assert set(report) == {"segm", "bbox"}
    assert set(report["segm"]) == {"AP", "AP50", "AP75", "APs", "APm", "APl"}
    results, seconds = predict(model, records, cfg, warm_up=True, progress=True)
    assert capsys.readouterr().err == "", "no bar outside a terminal"
    assert len(seconds) == 3
    assert 0 < len(results) <= 60
    assert all(0 <= r["bbox"][0] <= SIDE and r["category_id"] in (1, 2) for r in results)


@pytest.mark.parametrize(
    ("left", "top", "width", "height"),
    [(3, 2, 5, 4), (0, 0, 12, 9), (4, 5, 3, 4), (9, 0, 3, 9), (2, 0, 4, 3), (0, 0, 0, 0)],
    ids="inside whole lower right upper empty".split(),
)
@pytest.mark.parametrize("full", [True, False])
def test_a_crop_is_encoded_like_the_full_mask(left, top, width, height, full):
    crop = np.ones((height, width), bool) if full else np.random.default_rng(0).random((height, width)) < 0.5
    mask = np.zeros((9, 12), np.uint8, order="F")
    mask[top : top + height, left : left + width] = crop
    assert crop_to_rle(crop, left, top, 9, 12) == coco_mask.encode(mask)
