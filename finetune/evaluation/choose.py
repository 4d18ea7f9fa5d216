"""Choose the operating point on the val split, never on test."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from finetune.errors import UserError
from finetune.evaluation.coco_eval import Matches, match
from finetune.evaluation.operating_point import OperatingPoint

SCORES = np.concatenate([np.arange(5, 99) / 100, np.arange(990, 1000) / 1000])
"""The S = 104 score thresholds to choose from. Trained on few photos, a model is overconfident: finer steps near 1."""

ENOUGH_OBJECTS = 10
"""A class with fewer objects takes the threshold of all classes."""

SUPPRESSION_IOUS = (None, 0.9, 0.8, 0.7, 0.6, 0.5)


@dataclass(frozen=True)
class Rule:
    """What makes a threshold good: F1, or recall where precision suffices, or precision where recall suffices."""

    min_precision: float | None = None
    min_recall: float | None = None

    def __str__(self) -> str:
        if self.min_precision is not None:
            return f"precision ≥ {self.min_precision:g}"
        return "best F1" if self.min_recall is None else f"recall ≥ {self.min_recall:g}"


BEST_F1 = Rule()


@dataclass(frozen=True)
class Counts:
    """Detections that are right and wrong at a mask IoU of 0.5, at each threshold of ``SCORES``."""

    found: np.ndarray  # (S,)
    false: np.ndarray  # (S,)
    objects: int

    @property
    def precision(self) -> np.ndarray:
        """(S,), 0..1; NaN where nothing is shown."""
        shown = self.found + self.false
        return np.where(shown, self.found / np.maximum(shown, 1), np.nan)

    @property
    def recall(self) -> np.ndarray:
        """(S,), 0..1; NaN without objects."""
        return self.found / self.objects if self.objects else np.full(len(SCORES), np.nan)

    @property
    def f1(self) -> np.ndarray:
        """(S,): 2 TP / (2 TP + FP + FN)."""
        return 2 * self.found / np.maximum(self.found + self.false + self.objects, 1)


def count(per_class: Sequence[Matches]) -> Counts:
    """Add up the classes. Matching is greedy by falling score, so a threshold changes no match above it."""

    def at_each_threshold(chosen: list[np.ndarray]) -> np.ndarray:
        return (np.concatenate([*chosen, np.zeros(0)])[None] >= SCORES[:, None]).sum(axis=1)

    found = at_each_threshold([m.scores[m.found[0]] for m in per_class])
    false = at_each_threshold([m.scores[m.false[0]] for m in per_class])
    return Counts(found, false, int(sum(m.objects.sum() for m in per_class)))


def best_threshold(counts: Counts, rule: Rule) -> tuple[float, tuple[float, float]] | None:
    """The best threshold by ``rule``, the middle one of several that are equally good; None if none is allowed.

    The second value ranks it against the best thresholds under other suppressions.
    """
    if rule.min_precision is not None:
        allowed, value = counts.precision >= rule.min_precision, counts.recall
    elif rule.min_recall is not None:
        allowed, value = counts.recall >= rule.min_recall, counts.precision
    else:
        allowed, value = counts.found > 0, counts.f1
    if not allowed.any():
        return None
    for criterion in (value, counts.f1):
        allowed &= criterion == criterion[allowed].max()
    best = np.flatnonzero(allowed)
    middle = best[len(best) // 2]
    return float(SCORES[middle]), (float(value[middle]), float(counts.f1[middle]))


def choose(
    truth: COCO, results: Sequence[Any], classes: Sequence[str], rule: Rule = BEST_F1
) -> OperatingPoint:
    """Choose thresholds, and with several classes the suppression across them, from the val split's results.

    Returns:
        The point; the default one if nothing was found.

    Raises:
        UserError: no threshold reaches the rule's precision or recall.
    """
    several = len(classes) > 1
    rank, point = (-1.0, -1.0), OperatingPoint()
    for iou in SUPPRESSION_IOUS if several else (None,):
        per_class = match(truth, OperatingPoint(suppression_iou=iou).kept(results), "segm")[0][""]
        best = best_threshold(count(per_class), rule)
        if best is None or best[1] <= rank:
            continue
        own = {
            name: chosen[0]
            for name, matches in zip(classes, per_class, strict=True)
            if several and matches.objects.sum() >= ENOUGH_OBJECTS
            if (chosen := best_threshold(count([matches]), rule))
        }
        rank, point = best[1], OperatingPoint(best[0], own, iou, str(rule))
    if point.chosen_by is None and rule != BEST_F1:
        raise UserError(
            f"no score threshold reaches {rule} on the val split: ask for less, or choose by the best F1"
        )
    return point
