"""Which detection finds which object: pycocotools' matching, kept as arrays."""

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

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of intersection over union
# an object's mask area in pixels: below 32², below 96², above
SIZES = {"": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}


@dataclass(frozen=True)
class Matches:
    """Which detections of one class found an object, within one range of object sizes.

    N detections by falling score, T IoU thresholds, I images.
    """

    images: np.ndarray  # (N,) index of the detection's image
    found: np.ndarray  # (T, N) bool: a true positive
    false: np.ndarray  # (T, N) bool: a false positive; neither: outside the size range, or on a crowd
    objects: np.ndarray  # (I,) number of objects in each image


@dataclass(frozen=True)
class ImageScore:
    """How well one photo was read at the score threshold; a mask finds an object at an IoU of 0.5 or more."""

    image_id: int
    objects: int
    found_ids: tuple[int, ...]  # annotations that were found: ids of ``ground_truth``
    right: tuple[int, ...]  # the results that found them: indices into the list of results
    wrong: tuple[int, ...]  # results that found none
    mean_iou: float  # of the found objects' masks; 0 without any

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
        """2 TP / (2 TP + FP + FN); 1 where there is nothing and nothing was seen."""
        errors = self.missed + self.false
        return 2 * self.found / (2 * self.found + errors) if self.found + errors else 1.0

    @property
    def quality(self) -> float:
        """Panoptic quality (Kirillov et al. 2019): F1 × mean IoU."""
        return self.f1 * self.mean_iou if self.found else self.f1


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
    images = [
        {"id": record["image_id"], "width": record["width"], "height": record["height"]}
        for record in dataset_dicts
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
    return coco_index(images, annotations, categories)


def match(
    truth: COCO, results: Sequence[dict[str, Any]], kind: str
) -> tuple[dict[str, list[Matches]], COCOeval]:
    """Match detections to objects, greedily by falling score as COCO does, at most 100 an image.

    Args:
        kind: ``segm`` (by mask) or ``bbox`` (by box).

    Returns:
        Size class → one ``Matches`` a class; and pycocotools' evaluator with all its details.
    """
    detections = [
        {
            **result,
            "id": i,
            "iscrowd": 0,
            "area": float(coco_mask.area(result["segmentation"]))
            if kind == "segm"
            else result["bbox"][2] * result["bbox"][3],
        }
        for i, result in enumerate(results, start=1)
    ]
    found = coco_index(truth.dataset["images"], detections, truth.dataset["categories"])
    evaluator = COCOeval(truth, found, kind)
    evaluator.params.iouThrs = THRESHOLDS
    evaluator.params.maxDets = [100]
    evaluator.params.areaRng = list(SIZES.values())
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
    # pycocotools' order: class, then size range, then image by rising id
    per_image = np.array(evaluator.evalImgs, dtype=object).reshape(
        len(truth.dataset["categories"]), len(SIZES), len(truth.dataset["images"])
    )
    return {size: [_merge(row) for row in per_image[:, i]] for i, size in enumerate(SIZES)}, evaluator


def _merge(per_image: Sequence[dict[str, Any] | None]) -> Matches:
    """One class's matches over all images; None stands for an image with neither object nor detection."""
    entries = [(i, entry) for i, entry in enumerate(per_image) if entry is not None]
    objects = np.zeros(len(per_image), dtype=int)
    for i, entry in entries:
        objects[i] = np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)
    if not entries:
        empty = np.zeros((len(THRESHOLDS), 0), dtype=bool)
        return Matches(np.zeros(0, dtype=int), empty, empty, objects)
    order = np.argsort(-np.concatenate([entry["dtScores"] for _, entry in entries]), kind="mergesort")
    images = np.concatenate([np.full(len(entry["dtScores"]), i) for i, entry in entries])[order]
    matched = np.concatenate([entry["dtMatches"] for _, entry in entries], axis=1)[:, order] != 0
    ignored = np.concatenate([entry["dtIgnore"] for _, entry in entries], axis=1)[:, order] != 0
    return Matches(images, matched & ~ignored, ~matched & ~ignored, objects)


def image_scores(evaluator: COCOeval, image_ids: Sequence[int], score: float) -> list[ImageScore]:
    """One score a photo, from matches by mask at an IoU of 0.5, of detections with at least this score."""
    scores = []
    for image_id in image_ids:
        entries = [
            entry
            for entry in evaluator.evalImgs
            if entry is not None and entry["image_id"] == image_id and entry["aRng"] == SIZES[""]
        ]
        objects, ious, found_ids, right, wrong = 0, [], [], [], []
        for entry in entries:
            objects += int(np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0))
            table = evaluator.ious[image_id, entry["category_id"]]
            columns = [gt["id"] for gt in evaluator._gts[image_id, entry["category_id"]]]
            for row, dt_id in enumerate(entry["dtIds"]):
                gt_id = int(entry["dtMatches"][0, row])
                if entry["dtScores"][row] < score or entry["dtIgnore"][0, row]:
                    continue
                if gt_id:
                    ious.append(table[row][columns.index(gt_id)])
                    found_ids.append(gt_id)
                    right.append(dt_id - 1)
                else:
                    wrong.append(dt_id - 1)
        mean_iou = float(np.mean(ious)) if ious else 0.0
        scores.append(ImageScore(image_id, objects, tuple(found_ids), tuple(right), tuple(wrong), mean_iou))
    return scores


def coco_index(images: list[dict], annotations: list[dict], categories: list[dict]) -> COCO:
    """pycocotools' index of lists that are in memory."""
    coco = COCO()
    coco.dataset = {"images": images, "annotations": annotations, "categories": categories}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
