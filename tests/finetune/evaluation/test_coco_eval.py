"""AP equals pycocotools' own, intervals contain their estimate, empty size ranges are None."""

import contextlib
import io

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval

from finetune.checkpoints.run import Run
from finetune.data.dataset import load_split
from finetune.evaluation.coco_eval import (
    METRICS,
    average_precision,
    bootstrap,
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


def dataset(seed=0, images=8, sizes=(10, 150)):
    """Photos of two classes, full of rectangles of both small and large sides."""
    rng = np.random.default_rng(seed)
    records = []
    for image_id in range(images):
        annotations = []
        for _ in range(rng.integers(0, 6)):
            w, h = rng.integers(*sizes, 2)
            x, y = rng.integers(0, SIDE - w), rng.integers(0, SIDE - h)
            annotations.append(annotation(*map(int, (x, y, w, h)), int(rng.integers(2))))
        record = {"file_name": "", "image_id": 10 * image_id, "height": SIDE, "width": SIDE}
        records.append(record | {"annotations": annotations})
    return records


def annotation(x, y, w, h, class_id=0):
    return {"bbox": [x, y, x + w, y + h], "category_id": class_id, "segmentation": rectangle(x, y, w, h)}


def result(record, x, y, w, h, class_id, score):
    rle = coco_mask.merge(coco_mask.frPyObjects(rectangle(x, y, w, h), SIDE, SIDE))
    found = {"category_id": class_id + 1, "bbox": [x, y, w, h], "score": score, "segmentation": rle}
    return {"image_id": record["image_id"]} | found


def perfect(records):
    for record in records:
        for a in record["annotations"]:
            x1, y1, x2, y2 = a["bbox"]
            yield result(record, x1, y1, x2 - x1, y2 - y1, a["category_id"], 0.9)


def noisy(records, seed=0):
    """Shifted boxes, missed ones, wrong classes, false alarms, equal scores."""
    rng = np.random.default_rng(seed + 100)
    for found in list(perfect(records)):
        if rng.random() < 0.8:
            (x, y, w, h), (right, down) = found["bbox"], rng.integers(-4, 5, 2)
            class_id = (found["category_id"] - 1) ^ int(rng.random() > 0.9)
            yield result(found, x + right, y + down, w, h, class_id, round(float(rng.random()), 1))
    for record in records:
        for _ in range(rng.integers(0, 3)):
            x, y, w, h = rng.integers(10, 90, 4)
            yield result(record, x, y, w, h, int(rng.integers(2)), round(float(rng.random()), 1))


def scored(records, shown):
    """One score per photo."""
    _, evaluator = match(ground_truth(records, ["a", "b"]), shown, "segm")
    return image_scores(evaluator, [record["image_id"] for record in records])


def coco_says(truth, results, kind):
    if kind == "segm":  # pycocotools takes the area of a result's box, if it has one
        results = [{key: value for key, value in r.items() if key != "bbox"} for r in results]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(truth, truth.loadRes(results), kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats[:6]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_equal_to_pycocotools(seed, kind):
    truth, results = ground_truth(dataset(seed), "ab"), list(noisy(dataset(seed), seed))
    ours = summarize(match(truth, results, kind)[0])
    theirs = dict(zip(METRICS, coco_says(truth, results, kind), strict=True))
    assert ours == {name: None if v == -1 else pytest.approx(100 * v, abs=0.01) for name, v in theirs.items()}
    assert 5 < ours["AP50"] < 95  # the case is neither empty nor perfect


def test_weights_are_repeated_photos():
    # a resampled set of photos is computed by weights: the same as really repeating the photos
    records = dataset(3)
    results = list(noisy(records))
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


@pytest.mark.parametrize(("found", "ap"), [(True, 100), (False, 0)])
def test_all_is_found_or_nothing(found, ap):
    records = dataset()
    results = list(perfect(records)) if found else []
    report, _ = evaluate_results(records, results, ["a", "b"], resamples=50)
    for kind in ("segm", "bbox"):
        assert {report[kind][metric] for metric in METRICS[:3]} == {ap}
        assert report[kind]["intervals"]["AP"] == [ap, ap]
    scores = scored(records, results)
    at, objects = totals(scores), report["objects"]
    assert objects > 5
    assert (at["found"], at["missed"], at["false"]) == ((objects, 0, 0) if found else (0, objects, 0))
    assert (at["recall"], at["precision"]) == ((100, 100) if found else (0, None))
    assert [s.quality for s in scores] == [
        pytest.approx(1.0 if found or not r["annotations"] else 0.0) for r in records
    ]


def test_what_is_not_there_is_none():
    records = dataset(sizes=(100, 150))  # 100² is large already
    report, _ = evaluate_results(records, list(perfect(records)), ["a", "b"], resamples=10)
    assert (report["segm"]["APs"], report["segm"]["APm"], report["segm"]["APl"]) == (None, None, 100)
    empty = [record | {"annotations": []} for record in records]
    report, curves = evaluate_results(empty, [], ["a"], resamples=10)
    assert (report["segm"]["AP"], report["segm"]["intervals"]["AP"], curves) == (None, None, {})


def test_bootstrap_interval():
    records = dataset(1, images=20)
    matches, _ = match(ground_truth(records, "ab"), list(noisy(records)), "segm")
    alone = np.arange(len(records))
    estimate, intervals = summarize(matches), bootstrap(matches, alone)
    for name in METRICS[:3]:
        low, high = intervals[name]
        assert low < estimate[name] < high
    assert bootstrap(matches, alone) == intervals  # seeded


def test_groups_are_resampled_together():
    """Twenty photos that are ten, each twice, have the interval of ten."""
    records = dataset(1, images=10)
    results = list(noisy(records))
    twice, more = (
        [each | {"image_id": each["image_id"] + 100} for each in part] + part for part in (records, results)
    )
    groups = np.tile([record["image_id"] for record in records], 2)
    intervals = [
        evaluate_results(*case, ["a", "b"], groups=given)[0]["segm"]["intervals"]["AP"]
        for case, given in (((records, results), None), ((twice, more), groups), ((twice, more), None))
    ]
    assert intervals[1] == pytest.approx(intervals[0], abs=2)
    widths = [high - low for low, high in intervals]
    assert widths[2] < 0.85 * widths[1], "independent photos would make it narrower"


def test_image_scores_by_hand():
    [record] = dataset(images=1)
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
    records = dataset(images=20)
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
    [record] = dataset(images=1)
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


def test_evaluate_model(toy_run, toy_data, capsys):
    run, records = Run.open(toy_run), load_split(toy_data, "val")
    model = run.load_model().train()
    report = evaluate_model(model, records, ["balloon"], run.config)
    assert model.training
    assert set(report) == {"segm", "bbox"}
    assert tuple(report["segm"]) == METRICS
    assert report["segm"]["AP50"] > 99
    results, seconds = predict(model, records, run.config, warm_up=True, progress=True)
    assert capsys.readouterr().err == "", "no bar outside a terminal"
    assert len(seconds) == len(records)
    assert 0 < len(results) <= 100 * len(records)
    assert all(0 <= r["bbox"][0] <= 128 and r["category_id"] == 1 for r in results)


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
