"""What is shown, right or wrong: per photo, in total, by class, and on photos without objects."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from finetune.evaluation.coco_eval import SIZES, count_objects

Result = dict[str, Any]


@dataclass(frozen=True)
class ImageScore:
    """The detections shown in one photo against its objects, at a mask IoU of 0.5."""

    image_id: int
    objects: int
    found_ids: tuple[int, ...]  # ids (see ``ground_truth``) of the annotations that were found
    right: tuple[int, ...]  # true positives: indices into the list of shown results
    wrong: tuple[int, ...]  # false positives
    mean_iou: float  # mask IoU averaged over the found objects; 0 if there are none

    @property
    def found(self) -> int:
        return len(self.right)

    @property
    def false(self) -> int:
        return len(self.wrong)

    @property
    def missed(self) -> int:
        return self.objects - self.found

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); 1 if there are neither objects nor detections."""
        errors = self.missed + self.false
        return 2 * self.found / (2 * self.found + errors) if self.found + errors else 1.0

    @property
    def quality(self) -> float:
        """Panoptic quality (Kirillov et al. 2019): F1 × mean IoU."""
        return self.f1 * self.mean_iou if self.found else self.f1


def image_scores(evaluator: COCOeval, image_ids: Sequence[int]) -> list[ImageScore]:
    """One score per photo, from the matches by mask at an IoU of 0.5."""
    entries: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in image_ids}
    for entry in evaluator.evalImgs:
        if entry is not None and entry["aRng"] == SIZES[""]:
            entries[entry["image_id"]].append(entry)
    return [_image_score(evaluator, image_id, entries[image_id]) for image_id in image_ids]


def _image_score(evaluator: COCOeval, image_id: int, entries: Sequence[Any]) -> ImageScore:
    """Merge a photo's entries of all classes."""
    found, wrong = list[tuple[int, int, float]](), list[int]()
    for entry in entries:
        key = image_id, entry["category_id"]
        columns = {annotation["id"]: i for i, annotation in enumerate(evaluator._gts[key])}
        for row in np.flatnonzero(entry["dtIgnore"][0] == 0):
            detection, annotation_id = entry["dtIds"][row] - 1, int(entry["dtMatches"][0, row])
            if annotation_id:
                found.append((annotation_id, detection, evaluator.ious[key][row][columns[annotation_id]]))
            else:
                wrong.append(detection)
    found_ids, right, ious = zip(*found, strict=True) if found else ((), (), (0.0,))
    objects = sum(map(count_objects, entries))
    return ImageScore(image_id, objects, found_ids, right, tuple(wrong), float(np.mean(ious)))


def totals(scores: Sequence[ImageScore]) -> dict[str, Any]:
    """Counts over all photos, and precision, recall and mean mask IoU in percent."""
    found, false, objects = (sum(getattr(s, name) for s in scores) for name in ("found", "false", "objects"))
    return {
        "found": found,
        "missed": objects - found,
        "false": false,
        "precision": round(100 * found / (found + false), 2) if found + false else None,
        "recall": round(100 * found / objects, 2) if objects else None,
        "mean_iou": round(100 * sum(s.mean_iou * s.found for s in scores) / found, 2) if found else None,
    }


def confusion(
    truth: COCO, shown: Sequence[Result], scores: Sequence[ImageScore], iou: float = 0.5
) -> np.ndarray:
    """The confusion matrix with background, (C + 1, C + 1): rows are the true class, columns the shown one.

    Detections take objects of any class, greedily by falling score, at a mask IoU of at least ``iou``. The last column
    counts missed objects, the last row false detections.

    Args:
        scores: of all photos; what they count as neither right nor wrong is on a crowd, and left out.
    """
    classes = len(truth.cats)
    matrix = np.zeros((classes + 1, classes + 1), dtype=int)
    for score in scores:
        objects = [a for a in truth.imgToAnns[score.image_id] if not a["iscrowd"]]
        true_classes = np.array([a["category_id"] - 1 for a in objects], dtype=int)
        matrix[:-1, -1] += np.bincount(true_classes, minlength=classes)  # missed, unless taken below
        seen = sorted((shown[i] for i in score.right + score.wrong), key=lambda r: -r["score"])
        masks = [r["segmentation"] for r in seen], [a["segmentation"] for a in objects]
        overlaps = np.reshape(coco_mask.iou(*masks, [0] * len(objects)), (len(seen), len(objects)))
        for result, overlap in zip(seen, overlaps, strict=True):
            row = -1
            if overlap.max(initial=0) >= iou:
                row = true_classes[overlap.argmax()]
                matrix[row, -1] -= 1
                overlaps[:, overlap.argmax()] = 0
            matrix[row, result["category_id"] - 1] += 1
    return matrix


def false_alarms(shown: Sequence[Result], image_ids: Sequence[int]) -> dict[str, Any] | None:
    """Detections shown in photos without objects; None without such photos."""
    if not image_ids:
        return None
    counts = Counter(result["image_id"] for result in shown)
    per_photo = np.array([counts[image_id] for image_id in image_ids])
    return {
        "photos": len(per_photo),
        "alarms_per_photo": round(float(per_photo.mean()), 3),
        "photos_with_alarms": round(100 * float((per_photo > 0).mean()), 1),  # percent
    }
