"""Training batches as a function of the step.

Batch number ``step`` is made from a generator seeded by (seed, step, place in the batch) and from nothing else. So a
resumed run sees exactly the pictures that an uninterrupted one would have seen, whatever the number of loader
workers, and two processes with half a batch each see the same pictures as one process with the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import read_image
from detectron2.structures import BitMasks, Boxes, Instances
from torch.utils.data import DataLoader, Dataset

from finetune.data.synthetic import draw_scene
from finetune.training.augment import Sample, copy_paste, jitter_colour, large_scale_jitter

Record = dict[str, Any]


class TrainingBatches(Dataset):
    """A map from the step to this process's share of the batch, in Detectron2's input format.

    Each photo is seen once in an epoch; the order is shuffled anew for every epoch.

    Args:
        records: Detectron2's standard dicts of the train split.
        cfg: reads SOLVER.IMS_PER_BATCH (the total over all processes) and FINETUNE.AUGMENT.
        synthetic: (seed) → (image (H, W, 3) uint8 RGB, list of (H, W) bool), drawn in place of a photo with
            probability FINETUNE.SYNTHETIC_FRACTION; its instances are of class 0.
    """

    def __init__(
        self,
        records: list[Record],
        cfg: CfgNode,
        *,
        rank: int = 0,
        world_size: int = 1,
        synthetic: Callable[[int], tuple[np.ndarray, list[np.ndarray]]] | None = None,
    ) -> None:
        self.records = records
        self.seed = cfg.SEED
        self.batch_size = cfg.SOLVER.IMS_PER_BATCH
        self.augment = cfg.FINETUNE.AUGMENT
        self.synthetic_fraction = cfg.FINETUNE.SYNTHETIC_FRACTION
        self.synthetic = synthetic
        self.slots = range(rank, self.batch_size, world_size)
        self._photos: dict[int, np.ndarray] = {}

    def __getitem__(self, step: int) -> list[Record]:
        return [self._input(step, slot) for slot in self.slots]

    def _input(self, step: int, slot: int) -> Record:
        rng = np.random.default_rng([self.seed, step, slot])
        epoch, place = divmod(step * self.batch_size + slot, len(self.records))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.records))
        sample = self._sample(int(order[place]), rng)
        if rng.random() < self.augment.COPY_PASTE:
            sample = copy_paste(sample, self._sample(int(rng.integers(len(self.records))), rng), rng)
        sample = jitter_colour(
            sample,
            rng,
            brightness=self.augment.BRIGHTNESS,
            contrast=self.augment.CONTRAST,
            saturation=self.augment.SATURATION,
            hue=self.augment.HUE,
        )
        return to_model_input(sample)

    def _sample(self, index: int, rng: np.random.Generator) -> Sample:
        """A photo, or a drawn picture in its place, jittered in scale and position."""
        if self.synthetic is not None and rng.random() < self.synthetic_fraction:
            rgb, masks = self.synthetic(int(rng.integers(2**31)))
            image, annotations = rgb[:, :, ::-1], [_annotation_of(mask) for mask in masks if mask.any()]
            photo_size = image.shape[:2]
        else:
            record = self.records[index]
            image, annotations = self._photo(index), record["annotations"]
            photo_size = (record["height"], record["width"])
        return large_scale_jitter(
            np.ascontiguousarray(image),
            [a for a in annotations if not a.get("iscrowd")],
            rng,
            crop_size=self.augment.CROP_SIZE,
            scale=(self.augment.SCALE_MIN, self.augment.SCALE_MAX),
            flip=self.augment.FLIP,
            photo_size=photo_size,
        )

    def _photo(self, index: int) -> np.ndarray:
        """The photo in BGR, no larger than the largest scale asks for, kept in memory (few photos: that fits)."""
        if index not in self._photos:
            image = read_image(self.records[index]["file_name"], format="BGR")
            longest = self.augment.CROP_SIZE * self.augment.SCALE_MAX
            factor = longest / max(image.shape[:2])
            if factor < 1:
                image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
            self._photos[index] = image
        return self._photos[index]


def scene_drawer(cfg: CfgNode) -> Callable[[int], tuple[np.ndarray, list[np.ndarray]]] | None:
    """What draws a picture as large as a crop from a seed; None unless FINETUNE.SYNTHETIC_FRACTION asks for some."""
    if not cfg.FINETUNE.SYNTHETIC_FRACTION:
        return None
    size = cfg.FINETUNE.AUGMENT.CROP_SIZE
    return partial(draw_scene, width=size, height=size * 3 // 4)


def _annotation_of(mask: np.ndarray) -> Record:
    from pycocotools import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    x, y, width, height = coco_mask.toBbox(rle)
    return {"category_id": 0, "bbox": [x, y, x + width, y + height], "segmentation": rle}


def to_model_input(sample: Sample) -> Record:
    """Detectron2's training input: image (3, H, W) uint8 BGR, instances with boxes, classes and bit masks."""
    height, width = sample.image.shape[:2]
    instances = Instances((height, width))
    masks = BitMasks(torch.from_numpy(sample.masks))
    instances.gt_boxes = masks.get_bounding_boxes() if len(sample.masks) else Boxes(torch.zeros(0, 4))
    instances.gt_classes = torch.from_numpy(sample.class_ids)
    instances.gt_masks = masks
    image = torch.from_numpy(np.ascontiguousarray(sample.image.transpose(2, 0, 1)))
    return {"image": image, "height": height, "width": width, "instances": instances}


def training_loader(batches: TrainingBatches, start: int, stop: int, workers: int) -> DataLoader:
    """Batches ``start`` … ``stop - 1`` in order, made ahead by so many worker processes."""
    return DataLoader(
        batches,
        sampler=range(start, stop),
        batch_size=None,  # an item is a whole batch already
        num_workers=workers,
        worker_init_fn=_start_worker,
        persistent_workers=workers > 0,
    )


def _start_worker(worker: int) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends its workers
    cv2.setNumThreads(0)
