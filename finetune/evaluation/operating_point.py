"""The operating point: which detections are shown. ``evaluate --split val`` chooses it, never on test; export and
publish keep it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from statistics import fmean, stdev
from typing import Any

import click
import numpy as np
import torch
from pycocotools.coco import COCO
from torchvision.ops import batched_nms

from finetune.checkpoints.run import Run
from finetune.errors import UserError
from finetune.evaluation.coco_eval import Matches, match
from finetune.files import read_json, write_json

FILE = "operating_point.json"
Result = dict[str, Any]


@dataclass(frozen=True)
class OperatingPoint:
    """One detection for each object, if its score reaches a threshold. The handler selects by the same rule."""

    score_threshold: float = 0.5
    per_class: dict[str, float] = field(default_factory=dict)  # thresholds of single classes, by name
    # of detections whose boxes overlap more, only the best is shown, whatever their classes; None: all
    suppression_iou: float | None = None
    chosen_by: str | None = None  # the rule that chose it; None: a default
    uncertainty: dict[str, float] | None = None  # on val, see ``uncertainty``; None: not measured

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> OperatingPoint:
        """Read what ``to_json`` wrote; other keys are ignored, a missing one raises ``KeyError``."""
        return cls(**{attribute.name: document[attribute.name] for attribute in fields(cls)})

    def kept(self, results: Sequence[Result]) -> list[Result]:
        """The COCO results that suppression leaves, in their order; thresholds then apply to these."""
        return list(results) if self.suppression_iou is None else suppress(results, self.suppression_iou)

    def shown(self, results: Sequence[Result], classes: Sequence[str]) -> list[Result]:
        """The COCO results that are shown, in their order."""
        thresholds = [self.per_class.get(name, self.score_threshold) for name in classes]
        return [r for r in self.kept(results) if r["score"] >= thresholds[r["category_id"] - 1]]


def uncertainty(shown: Sequence[Result]) -> dict[str, float] | None:
    """1 − the mean score of a photo's detections: ``mean`` and ``std`` over the ``photos`` that have any.

    `maskrcnn serve status` compares it with what is served, to detect drift. None with fewer than five such photos.
    """
    scores: dict[int, list[float]] = {}
    for result in shown:
        scores.setdefault(result["image_id"], []).append(result["score"])
    values = [1 - fmean(each) for each in scores.values()]
    if len(values) < 5:
        return None
    return {"photos": len(values), "mean": round(fmean(values), 4), "std": round(stdev(values), 4)}


def suppress(results: Sequence[Result], iou: float) -> list[Result]:
    """Non-maximum suppression by box over all classes of a photo; the order stays."""
    if not results:
        return []
    boxes = torch.tensor([r["bbox"] for r in results], dtype=torch.float64)
    boxes[:, 2:] += boxes[:, :2]  # XYWH → XYXY
    scores = torch.tensor([r["score"] for r in results], dtype=torch.float64)
    photos = torch.tensor([r["image_id"] for r in results])
    return [results[i] for i in sorted(batched_nms(boxes, scores, photos, iou).tolist())]


def save_point(run: Run, point: OperatingPoint) -> None:
    """Keep the point beside the weights that it was chosen for; a default one removes what was kept."""
    if point.chosen_by is None:
        run.beside(FILE).unlink(missing_ok=True)
    else:
        write_json(run.beside(FILE), point.to_json() | run.measured_with)


def read_point(run: Run) -> OperatingPoint | None:
    """The point that was chosen for a run's weights and config, or None and a sentence on stderr why."""
    path, command = run.beside(FILE), f"maskrcnn evaluate {run.path} --data DIR --split val"
    cure = f"`{' '.join([command, *run.overrides])}`"
    documents = {}
    if path.is_file():
        documents[path] = read_json(path, cure=f"choose again with {cure}")
    if published := run.published("operating_point"):
        documents[run.path] = published | run.measured_with | {"changed_config": {}}
    for file, document in documents.items():
        try:
            if run.holds(document):
                return OperatingPoint.from_json(document)
        except (KeyError, TypeError, AttributeError):
            raise UserError(
                f"{file} cannot be read as an operating point: choose again with {cure}"
            ) from None
    reason = "leaves its operating point out, which was chosen for other weights or another config"
    if not documents:
        reason = "has no operating point"
    click.echo(f"{run.name} {reason}: detections are shown from score 0.5 on; choose with {cure}", err=True)
    return None


# How val chooses the point.

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
