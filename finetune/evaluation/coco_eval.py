"""Average precision as COCO defines it, and its uncertainty. Functions without files.

Detections are matched to objects once. Averages are taken here, from those matches, because a bootstrap
takes them a thousand times: a resampled set of photos is a vector of weights, one a photo.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN

from finetune.evaluation.inference import predict
from finetune.evaluation.matching import THRESHOLDS, ImageScore, Matches, ground_truth, image_scores, match

RECALLS = np.linspace(0, 1, 101)
KINDS = ("segm", "bbox")
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def evaluate_model(
    model: GeneralizedRCNN, dataset_dicts: Sequence[dict[str, Any]], classes: Sequence[str], cfg: CfgNode
) -> dict[str, dict[str, float | None]]:
    """Run a model over a split and return its ``{"segm": {"AP": …, "AP50": …, …}, "bbox": {…}}`` in percent.

    The model is left in the mode (training or not) in which it came.
    """
    results, _ = predict(model, dataset_dicts, cfg)
    truth = ground_truth(dataset_dicts, classes)
    return {kind: summarize(match(truth, results, kind)[0]) for kind in KINDS}


def evaluate_results(
    dataset_dicts: Sequence[dict[str, Any]],
    results: Sequence[dict[str, Any]],
    classes: Sequence[str],
    *,
    score: float = 0.5,
    resamples: int = 1000,
) -> tuple[dict[str, Any], list[ImageScore], dict[str, dict[str, np.ndarray]]]:
    """Everything that a report says of a list of COCO results (``finetune.evaluation.inference.predict``).

    Args:
        score: the threshold for the figures of daily use (precision, recall, F1, scores per photo).
        resamples: of the photos, for the 95 % intervals.

    Returns:
        A JSON-ready dict (percentages; None where a size class has no objects); one score per photo in the
        order of ``dataset_dicts``; and kind → label → precision (101,) at recalls 0, 0.01, … 1.
    """
    truth = ground_truth(dataset_dicts, classes)
    curves: dict[str, dict[str, np.ndarray]] = {}
    report: dict[str, Any] = {"images": len(dataset_dicts), "objects": len(truth.anns)}
    for kind in KINDS:
        matches, evaluator = match(truth, results, kind)
        report[kind] = summarize(matches)
        report[kind]["intervals"] = bootstrap(matches, len(dataset_dicts), resamples=resamples)
        if len(classes) > 1:
            report[kind]["per_class"] = {
                name: summarize({size: [per_class[i]] for size, per_class in matches.items()})
                for i, name in enumerate(classes)
            }
        curves[kind] = {
            label: curve
            for label, threshold in (("IoU 0.5", 0), ("IoU 0.75", 5), ("mean of IoU 0.5 … 0.95", None))
            if (curve := mean_precision(matches[""], threshold)) is not None
        }
        if kind == "segm":
            scores = image_scores(evaluator, [d["image_id"] for d in dataset_dicts], score)
    found, false = sum(s.found for s in scores), sum(s.false for s in scores)
    objects = sum(s.objects for s in scores)
    report["at_score"] = {
        "score": score,
        "found": found,
        "missed": objects - found,
        "false": false,
        "precision": round(100 * found / (found + false), 2) if found + false else None,
        "recall": round(100 * found / objects, 2) if objects else None,
        "mean_iou": round(100 * sum(s.mean_iou * s.found for s in scores) / found, 2) if found else None,
    }
    return report, scores, curves


def precision_at_recalls(matches: Matches, weights: np.ndarray | None = None) -> np.ndarray | None:
    """Interpolated precision, (T, 101), at recalls 0, 0.01, … 1; None without objects.

    Args:
        weights: (I,) how often each image counts.
    """
    if weights is None:
        weights = np.ones(len(matches.objects))
    objects = weights @ matches.objects
    if objects == 0:
        return None
    weight = weights[matches.images]
    found = np.cumsum(matches.found * weight, axis=1)
    false = np.cumsum(matches.false * weight, axis=1)
    recall = found / objects
    precision = found / np.maximum(found + false, np.finfo(float).tiny)
    # a precision is what can be had at this recall or a higher one
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    result = np.zeros((len(THRESHOLDS), len(RECALLS)))
    for row, (r, p) in enumerate(zip(recall, precision, strict=True)):
        index = np.searchsorted(r, RECALLS, side="left")
        reached = index < len(p)
        result[row, reached] = p[index[reached]]
    return result


def average_precision(per_class: Sequence[Matches], weights: np.ndarray | None = None) -> np.ndarray | None:
    """Average precision per IoU threshold, (T,), 0..1: mean over recalls and classes."""
    curves = [curve for m in per_class if (curve := precision_at_recalls(m, weights)) is not None]
    return np.mean(curves, axis=(0, 2)) if curves else None


def mean_precision(per_class: Sequence[Matches], threshold: int | None) -> np.ndarray | None:
    """Precision (101,) at one IoU threshold (index), or the mean over all; None without objects."""
    curves = [curve for m in per_class if (curve := precision_at_recalls(m)) is not None]
    if not curves:
        return None
    mean = np.mean(curves, axis=0)
    return mean.mean(axis=0) if threshold is None else mean[threshold]


def summarize(matches: dict[str, list[Matches]]) -> dict[str, Any]:
    """``{"AP", "AP50", "AP75", "APs", "APm", "APl"}`` in percent; None where there are no such objects."""
    overall = average_precision(matches[""])
    summary = dict(zip(METRICS[:3], _headline(overall), strict=True))
    for size in ("s", "m", "l"):
        summary[f"AP{size}"] = _headline(average_precision(matches[size]))[0]
    return summary


def bootstrap(
    matches: dict[str, list[Matches]], images: int, *, resamples: int = 1000, seed: int = 0
) -> dict[str, list[float] | None]:
    """95 % intervals of AP, AP50 and AP75: what they become when the photos are drawn anew, with replacement.

    It tells how much another set of as many photos could differ, not how another training would.
    """
    draws = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)
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
