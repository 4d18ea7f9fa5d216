"""Average precision as COCO defines it, and its uncertainty. Reads and writes no files.

pycocotools matches detections to objects once. The averages are computed here from those matches, because a bootstrap
needs a thousand of them: a resampled set of photos is a vector of weights, one per photo.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from finetune.data.masks import to_rle

KINDS = ("segm", "bbox")
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
RECALLS = np.linspace(0, 1, 101)
THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of intersection over union
# ranges of an object's mask area in pixels: all; below 32², below 96², above
SIZES = {"": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}


@dataclass(frozen=True)
class Matches:
    """Which detections of one class match an object of one size range.

    N detections by falling score, T IoU thresholds, I images.
    """

    images: np.ndarray  # (N,) index of the detection's image
    scores: np.ndarray  # (N,)
    found: np.ndarray  # (T, N) bool: a true positive
    false: np.ndarray  # (T, N) bool: a false positive; neither: outside the size range, or on a crowd
    objects: np.ndarray  # (I,) number of objects in each image


def evaluate_results(
    dataset_dicts: Sequence[dict[str, Any]],
    results: Sequence[dict[str, Any]],
    classes: Sequence[str],
    *,
    groups: np.ndarray | None = None,
    resamples: int = 1000,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Compute AP and its intervals from COCO results (``finetune.evaluation.inference.predict``).

    Args:
        groups: (I,) a number for each photo; photos of one number depend on each other, and are resampled together.
        resamples: of the photos, for the 95 % intervals.

    Returns:
        A JSON-ready dict (percentages; None for a size range without objects), and of masks label → precision (101,)
        at recalls 0, 0.01, … 1; empty without objects.
    """
    truth = ground_truth(dataset_dicts, classes)
    ids = np.array([record["image_id"] for record in dataset_dicts])
    groups = (ids if groups is None else groups)[ids.argsort()]  # in pycocotools' order of the images
    curves: dict[str, np.ndarray] = {}
    report: dict[str, Any] = {"images": len(dataset_dicts), "objects": len(truth.anns)}
    for kind in KINDS:
        matches, _ = match(truth, results, kind)
        report[kind] = summarize(matches)
        report[kind]["intervals"] = bootstrap(matches, groups, resamples=resamples)
        if len(classes) > 1:
            report[kind]["per_class"] = {
                name: summarize({size: [per_class[i]] for size, per_class in matches.items()})
                for i, name in enumerate(classes)
            }
        if kind == "segm" and (mean := mean_precision(matches[""])) is not None:
            curves = {"IoU 0.5": mean[0], "IoU 0.75": mean[5], "mean of IoU 0.5 … 0.95": mean.mean(axis=0)}
    return report, curves


def ground_truth(dataset_dicts: Sequence[dict[str, Any]], classes: Sequence[str]) -> COCO:
    """Index Detectron2's standard dicts for pycocotools. Annotation ids count from 1 in dataset order."""
    annotations: list[dict[str, Any]] = []
    for record in dataset_dicts:
        for annotation in record["annotations"]:
            x1, y1, x2, y2 = annotation["bbox"]
            rle = to_rle(annotation["segmentation"], record["width"], record["height"])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record["image_id"],
                    "category_id": annotation["category_id"] + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "segmentation": rle,
                    "area": float(coco_mask.area(rle)),
                    "iscrowd": int(annotation.get("iscrowd", 0)),
                }
            )
    images = [{"id": d["image_id"], "width": d["width"], "height": d["height"]} for d in dataset_dicts]
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
    return coco_index(images, annotations, categories)


def match(truth: COCO, results: Sequence[Any], kind: str) -> tuple[dict[str, list[Matches]], COCOeval]:
    """Match detections to objects greedily by falling score, as COCO does, at most 100 per image.

    Args:
        kind: ``segm`` (by mask) or ``bbox`` (by box).

    Returns:
        Size range → one ``Matches`` per class; and pycocotools' evaluator with all details.
    """
    detections = []
    for i, result in enumerate(results, start=1):
        _, _, width, height = result["bbox"]
        area = float(coco_mask.area(result["segmentation"])) if kind == "segm" else width * height
        detections.append({**result, "id": i, "iscrowd": 0, "area": area})
    images, categories = truth.dataset["images"], truth.dataset["categories"]
    evaluator = COCOeval(truth, coco_index(images, detections, categories), kind)
    evaluator.params.iouThrs = THRESHOLDS
    evaluator.params.maxDets = [100]
    evaluator.params.areaRng = list(SIZES.values())
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
    # pycocotools' order: class, then size range, then image by rising id
    per_image = np.array(evaluator.evalImgs, dtype=object).reshape(len(categories), len(SIZES), len(images))
    return {size: [_merge(row) for row in per_image[:, i]] for i, size in enumerate(SIZES)}, evaluator


def _merge(per_image: Sequence[dict[str, Any] | None]) -> Matches:
    """One class's matches over all images; None stands for an image with neither objects nor detections."""
    entries = [(i, entry) for i, entry in enumerate(per_image) if entry is not None]
    objects = np.array([0 if entry is None else count_objects(entry) for entry in per_image])
    if not entries:
        empty = np.zeros((len(THRESHOLDS), 0), dtype=bool)
        return Matches(np.zeros(0, dtype=int), np.zeros(0), empty, empty, objects)
    scores = np.concatenate([entry["dtScores"] for _, entry in entries])
    order = np.argsort(-scores, kind="mergesort")
    images = np.concatenate([np.full(len(entry["dtScores"]), i) for i, entry in entries])[order]
    matched = np.concatenate([entry["dtMatches"] for _, entry in entries], axis=1)[:, order] != 0
    ignored = np.concatenate([entry["dtIgnore"] for _, entry in entries], axis=1)[:, order] != 0
    return Matches(images, scores[order], matched & ~ignored, ~matched & ~ignored, objects)


def count_objects(entry: dict[str, Any]) -> int:
    """Objects of one of pycocotools' entries, without crowds and those outside the size range."""
    return int(np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0))


def coco_index(images: list[dict], annotations: list[dict], categories: list[dict]) -> COCO:
    """Index lists that are in memory, as pycocotools does with a file."""
    coco = COCO()
    coco.dataset = {"images": images, "annotations": annotations, "categories": categories}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def summarize(matches: dict[str, list[Matches]]) -> dict[str, Any]:
    """``{"AP", "AP50", "AP75", "APs", "APm", "APl"}`` in percent; None where there are no such objects."""
    summary = dict(zip(METRICS[:3], _headline(average_precision(matches[""])), strict=True))
    for size in ("s", "m", "l"):
        summary[f"AP{size}"] = _headline(average_precision(matches[size]))[0]
    return summary


def bootstrap(
    matches: dict[str, list[Matches]], groups: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> dict[str, list[float] | None]:
    """95 % intervals of AP, AP50 and AP75 when groups of photos are resampled with replacement.

    They tell how much another set of as many photos could differ, not how another training would.

    Args:
        groups: (I,) what group each image belongs to; all different where photos are independent.
    """
    names, numbers = np.unique(groups, return_inverse=True)
    count = len(names)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    draws = draws[:, numbers]  # how often each image counts
    values = [_headline(ap) for draw in draws if (ap := average_precision(matches[""], draw)) is not None]
    if not values:
        return dict.fromkeys(METRICS[:3])
    low, high = np.percentile(np.array(values, dtype=float), [2.5, 97.5], axis=0).round(3)
    return {name: [float(low[i]), float(high[i])] for i, name in enumerate(METRICS[:3])}


def _headline(ap: np.ndarray | None) -> list[float | None]:
    """AP, AP50, AP75 in percent."""
    if ap is None:
        return [None, None, None]
    return [round(100 * float(value), 3) for value in (ap.mean(), ap[0], ap[5])]


def average_precision(per_class: Sequence[Matches], weights: np.ndarray | None = None) -> np.ndarray | None:
    """Average precision per IoU threshold, (T,), 0..1: the mean over recalls and classes; None without objects."""
    mean = mean_precision(per_class, weights)
    return None if mean is None else mean.mean(axis=1)


def mean_precision(per_class: Sequence[Matches], weights: np.ndarray | None = None) -> np.ndarray | None:
    """Precision at recalls, (T, 101), averaged over the classes; None without objects."""
    curves = [curve for m in per_class if (curve := precision_at_recalls(m, weights)) is not None]
    return np.mean(curves, axis=0) if curves else None


def precision_at_recalls(matches: Matches, weights: np.ndarray | None = None) -> np.ndarray | None:
    """Interpolated precision, (T, 101), at recalls 0, 0.01, … 1; None without objects.

    Args:
        weights: (I,) how often each image counts.
    """
    weights = np.ones(len(matches.objects)) if weights is None else weights
    objects = weights @ matches.objects
    if objects == 0:
        return None
    weight = weights[matches.images]
    found = np.cumsum(matches.found * weight, axis=1)
    false = np.cumsum(matches.false * weight, axis=1)
    recall = found / objects
    precision = found / np.maximum(found + false, np.finfo(float).tiny)
    # interpolated: the best precision at this recall or a higher one
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    result = np.zeros((len(THRESHOLDS), len(RECALLS)))
    for row, (r, p) in enumerate(zip(recall, precision, strict=True)):
        index = np.searchsorted(r, RECALLS, side="left")
        reached = index < len(p)
        result[row, reached] = p[index[reached]]
    return result
