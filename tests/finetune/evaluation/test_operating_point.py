"""The operating point on toy detections, counted by hand."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from finetune.errors import UserError
from finetune.evaluation.coco_eval import ground_truth, match
from finetune.evaluation.operating_point import (
    SCORES,
    OperatingPoint,
    Rule,
    choose,
    count,
    suppress,
    uncertainty,
)  # fmt: skip
from finetune.evaluation.photo_scores import confusion, false_alarms, image_scores, totals
from handler.api.responses import select
from handler.api.settings import parse_settings
from handler.model import Detections

SIDE = 100
CLASSES = ["door", "bumper"]
# four objects in a photo, 20 pixels wide, and where a false alarm lies
PLACES = {"a": 0, "b": 25, "c": 50, "d": 75}


def mask(x, y):
    return [[x, y, x + 20, y, x + 20, y + 20, x, y + 20]]


def photo(image_id=1, objects="abcd", class_id=0):
    corners = [PLACES[place] for place in objects]
    annotations = [
        {"bbox": [x, 0, x + 20, 20], "category_id": class_id, "segmentation": mask(x, 0)} for x in corners
    ]
    return {"image_id": image_id, "height": SIDE, "width": SIDE, "annotations": annotations}


def shown(place, score, class_id=0, image_id=1, y=0):
    """A detection on an object, or with y = 50 on nothing."""
    x = PLACES[place]
    rle = coco_mask.merge(coco_mask.frPyObjects(mask(x, y), SIDE, SIDE))
    found = {"image_id": image_id, "category_id": class_id + 1, "bbox": [x, y, 20, 20]}
    return found | {"score": score, "segmentation": rle}


# right 0.9, 0.8, 0.6, 0.3; wrong 0.7, 0.4, 0.2
RESULTS = [
    *(shown(place, score) for place, score in zip("abcd", (0.9, 0.8, 0.6, 0.3), strict=True)),
    *(shown(place, score, y=50) for place, score in zip("abc", (0.7, 0.4, 0.2), strict=True)),
]


def counts_of(results, records=None, classes=("door",)):
    truth = ground_truth(records or [photo()], classes)
    return count(match(truth, results, "segm")[0][""])


def at(score):
    return int(np.flatnonzero(score == SCORES)[0])


def test_counts_at_each_threshold():
    counts = counts_of(RESULTS)
    table = {0.05: (4, 3), 0.3: (4, 2), 0.31: (3, 2), 0.7: (2, 1), 0.75: (2, 0), 0.9: (1, 0), 0.91: (0, 0)}
    assert {s: (counts.found[at(s)], counts.false[at(s)]) for s in table} == table
    assert counts.objects == 4
    assert counts.precision[at(0.7)] == pytest.approx(2 / 3)
    assert np.isnan(counts.precision[at(0.91)])
    assert counts.recall[at(0.75)] == 0.5
    assert counts.f1[at(0.3)] == pytest.approx(8 / 10)


@pytest.mark.parametrize(
    ("rule", "threshold"),
    [
        ({}, 0.26),  # F1 8/10 from 0.21 to 0.30
        ({"min_precision": 0.5}, 0.26),  # all found, two false
        ({"min_precision": 0.7}, 0.51),  # 3 of 4 right from 0.41 to 0.60
        ({"min_precision": 0.9}, 0.76),  # both right from 0.71 to 0.80
        ({"min_recall": 0.5}, 0.76),  # 2 of 4 found, none false
        ({"min_recall": 1}, 0.26),  # all found, two false
    ],
)
def test_rules(rule, threshold):
    chosen = choose(ground_truth([photo()], ["door"]), RESULTS, ["door"], Rule(**rule))
    assert chosen.score_threshold == threshold
    assert (chosen.suppression_iou, chosen.per_class) == (None, {})
    assert OperatingPoint.from_json(chosen.to_json() | {"weights_sha256": "0"}) == chosen


def test_uncertainty_is_over_photos_not_over_detections():
    shown = [{"image_id": i, "score": 0.9} for i in (1, 2, 3, 4)] + [{"image_id": 5, "score": 0.6}]
    assert uncertainty(shown) == {"photos": 5, "mean": 0.16, "std": 0.1342}
    assert uncertainty([*shown, {"image_id": 5, "score": 0.2}])["mean"] == 0.2
    assert uncertainty(shown[:4]) is None


def test_what_cannot_be_reached_is_refused():
    truth = ground_truth([photo()], ["door"])
    with pytest.raises(UserError, match=r"no score threshold reaches recall ≥ 0\.9 .*: ask for less"):
        choose(truth, RESULTS[:2], ["door"], Rule(min_recall=0.9))
    with pytest.raises(UserError, match="reaches precision ≥"):
        choose(truth, RESULTS[4:], ["door"], Rule(min_precision=0.5))
    assert choose(truth, [], ["door"]) == OperatingPoint(), "nothing found, nothing chosen"


def test_a_class_with_enough_objects_has_its_own_threshold():
    doors = [photo(i) for i in (1, 2, 3)]  # 12 objects
    bumpers = [photo(i, "ab", class_id=1) for i in (4, 5)]  # 4 are too few
    results = [shown(p, 0.9, image_id=r["image_id"]) for r in doors for p in "abcd"]
    results += [shown(p, 0.5, 1, image_id=r["image_id"]) for r in bumpers for p in "ab"]
    results += [shown(p, 0.55, 0, image_id=1, y=50) for p in "ab"]  # doors need more than 0.55
    point = choose(ground_truth(doors + bumpers, CLASSES), results, CLASSES)
    assert point.per_class == {"door": 0.73}  # the middle of 0.56 to 0.90
    assert point.score_threshold == 0.28  # the middle of 0.05 to 0.50
    assert len(point.shown(results, CLASSES)) == 16


def test_steps_are_fine_where_a_model_is_overconfident():
    results = [shown(place, 0.9965) for place in "abcd"] + [shown("a", 0.9945, y=50)]
    assert choose(ground_truth([photo()], ["door"]), results, ["door"]).score_threshold == 0.996
    assert np.all(np.diff(SCORES) > 0)


def test_suppression_keeps_the_best_of_a_place():
    twice = [shown("a", 0.9), shown("a", 0.8, 1), shown("b", 0.7, 1), shown("a", 0.6, 1, image_id=2)]
    assert suppress(twice, 0.5) == [twice[0], *twice[2:]]
    assert OperatingPoint(0.85, {"bumper": 0.6}, 0.5).shown(twice, CLASSES) == [twice[0], *twice[2:]]
    # thresholds come later: a higher one brings no other detection to light
    assert OperatingPoint(0.95, {"bumper": 0.6}, 0.5).shown(twice, CLASSES) == twice[2:]
    assert suppress([], 0.5) == []


def test_val_chooses_suppression_only_where_it_helps():
    truth = ground_truth([photo()], CLASSES)
    right = [shown(p, 0.9) for p in "abcd"]
    assert choose(truth, right, CLASSES).suppression_iou is None
    twice = [shown(p, 0.9) for p in "ab"] + [shown(p, 0.85, 1) for p in "ab"] + [shown(p, 0.3) for p in "cd"]
    chosen = choose(truth, twice, CLASSES)
    assert chosen == OperatingPoint(0.18, suppression_iou=0.9, chosen_by="best F1")


def test_suppression_is_chosen_by_the_rule():
    truth = ground_truth([photo(1), photo(2, class_id=1)], CLASSES)
    results = [shown(p, 0.9, image_id=1) for p in "abcd"] + [shown(p, 0.8, 1, image_id=1) for p in "abc"]
    results += [shown("a", 0.95, image_id=2)] + [shown(p, 0.7, 1, image_id=2) for p in "abcd"]
    # suppression hides three false bumpers and one that is right, behind a false door
    best = choose(truth, results, CLASSES)
    assert (best.suppression_iou, len(best.shown(results, CLASSES))) == (0.9, 8)
    most = choose(truth, results, CLASSES, Rule(min_precision=0.6))
    assert (most.suppression_iou, len(most.shown(results, CLASSES))) == (None, 12)


@pytest.mark.parametrize("seed", range(5))
def test_what_was_chosen_is_what_report_and_handler_show(seed):
    """Random detections of three classes that overlap: the counts of the choice, of the report and of the handler."""
    rng = np.random.default_rng(seed)
    classes = [*CLASSES, "wheel"]
    records = [photo(i, "abcd", class_id=i % 3) for i in range(12)]
    results = [
        shown(place, float(np.float32(rng.uniform(0.05, 1))), int(class_id), i, y=int(y))
        for i in range(12)
        for place in "abcd"
        for class_id, y in zip(rng.integers(0, 3, 3), rng.integers(0, 12, 3), strict=True)
    ]
    truth = ground_truth(records, classes)
    point = OperatingPoint(0.45, {"door": 0.62, "wheel": 0.3}, 0.5)
    counted = {
        name: count([matches])
        for name, matches in zip(classes, match(truth, point.kept(results), "segm")[0][""], strict=True)
    }
    rows = {name: at(point.per_class.get(name, 0.45)) for name in classes}
    seen = point.shown(results, classes)
    report = totals(image_scores(match(truth, seen, "segm")[1], range(12)))
    for which in ("found", "false"):
        assert sum(getattr(counted[name], which)[row] for name, row in rows.items()) == report[which]

    options = parse_settings(None, classes, point.to_json()).options
    for i in range(12):
        mine = sorted((r for r in results if r["image_id"] == i), key=lambda r: -r["score"])
        boxes = np.array([r["bbox"] for r in mine], np.float32)
        boxes[:, 2:] += boxes[:, :2]
        scores = np.array([r["score"] for r in mine], np.float32)
        ids = np.array([r["category_id"] - 1 for r in mine])
        served = select(Detections(boxes, scores, ids, np.zeros((len(mine), 2, 2), np.float32)), options)
        expected = sorted((r["score"] for r in seen if r["image_id"] == i), reverse=True)
        assert served.scores.tolist() == expected
        assert options.wanted.classes is None


def test_confusion_matrix():
    records = [photo(1, "abc"), photo(2, "a", class_id=1)]
    results = [
        shown("a", 0.9),  # right
        shown("a", 0.8),  # a second time: false
        shown("b", 0.7, 1),  # a door taken for a bumper
        shown("d", 0.6, 1, image_id=2),  # false
    ]  # c, and the bumper, are missed
    truth = ground_truth(records, CLASSES)
    scores = image_scores(match(truth, results, "segm")[1], [1, 2])
    matrix = confusion(truth, results, scores)
    assert matrix.tolist() == [[1, 1, 1], [0, 0, 1], [1, 1, 0]]


def test_false_alarms():
    results = [shown("a", 0.9, image_id=i) for i in (2, 2, 2, 4, 7)]
    figures = {"photos": 4, "alarms_per_photo": 1.0, "photos_with_alarms": 50.0}
    assert false_alarms(results, [1, 2, 3, 4]) == figures
    assert false_alarms(results, []) is None
