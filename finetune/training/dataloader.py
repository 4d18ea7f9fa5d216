"""Training batches as a function of the step.

Batch ``step`` is made from random generators seeded by (seed, step, slot in the batch) and nothing else. A resumed run
therefore sees exactly the pictures that an uninterrupted run would have seen, whatever the number of loader workers,
and two processes with half a batch each see the same pictures as one process with the whole batch.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import read_image
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from finetune.errors import UserError
from finetune.training.augment import Sample, copy_paste, jitter_color, large_scale_jitter
from finetune.training.machine import usable_cores
from finetune.training.optim import device_type

Record = dict[str, Any]

CACHE_BYTES = 512 * 2**20
"""Decoded photos that one loader worker keeps: 109 that fill 1280 × 1280, so a small data set is decoded once, while
eight workers stay below 4 GiB whatever the size of the data set."""

WORKERS_BESIDE_CPU, WORKERS_BESIDE_GPU = 2, 8
"""The most loader workers by default: a CPU's cores train, and a GPU takes more images than one core prepares."""


class TrainingBatches(Dataset):
    """A map from the step to this process's share of the batch, in Detectron2's input format.

    Each photo is seen once per epoch, in an order that is reshuffled every epoch; with FINETUNE.REPEAT_THRESHOLD
    photos of rare classes are seen, and pasted into others, more often. With FINETUNE.NEGATIVE_SHARE photos without an
    object are drawn at random, for that share of the batches' slots, and the epoch is made of the others; with
    FINETUNE.HARD_NEGATIVES those that fool the initial weights are drawn more often.

    Args:
        records: Detectron2's standard dicts of the train split.
        cfg: reads SEED, SOLVER.IMS_PER_BATCH (the total over all processes), FINETUNE.REPEAT_THRESHOLD,
            FINETUNE.NEGATIVE_SHARE, FINETUNE.HARD_NEGATIVES and FINETUNE.AUGMENT.
        false_scores: the best score of a false object in each photo without objects, by file name
            (:func:`mine_negatives`).

    Raises:
        UserError: FINETUNE.NEGATIVE_SHARE or FINETUNE.HARD_NEGATIVES is out of range, or there are no photos that it
            could be a share of.
    """

    def __init__(
        self,
        records: list[Record],
        cfg: CfgNode,
        *,
        false_scores: dict[str, float] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.records = records
        self.epoch = epoch_of(records, cfg.FINETUNE.REPEAT_THRESHOLD)
        self.negatives = np.array([], dtype=int)
        self.negative_share = cfg.FINETUNE.NEGATIVE_SHARE
        hardness = cfg.FINETUNE.HARD_NEGATIVES
        if not 0 <= hardness < math.inf or (hardness and self.negative_share <= 0):
            raise UserError(
                f"FINETUNE.HARD_NEGATIVES {hardness:g} must be 0 or above, and needs a FINETUNE.NEGATIVE_SHARE above 0"
            )
        if self.negative_share != -1:
            self.negatives, self.epoch = without_objects(records, self.epoch, self.negative_share)
        names = [Path(records[index]["file_name"]).name for index in self.negatives]
        odds = np.array([1 + hardness * (false_scores or {}).get(name, 0) for name in names])
        self.negative_odds = odds / odds.sum()
        self.seed = cfg.SEED
        self.batch_size = cfg.SOLVER.IMS_PER_BATCH
        self.augment = cfg.FINETUNE.AUGMENT
        self.color = {key: self.augment[key.upper()] for key in "brightness contrast saturation hue".split()}
        self.slots = range(rank, self.batch_size, world_size)

    def __getitem__(self, step: int) -> list[Record]:
        return [self._input(step, slot) for slot in self.slots]

    def _input(self, step: int, slot: int) -> Record:
        rng = np.random.default_rng([self.seed, step, slot])
        epoch, place = divmod(step * self.batch_size + slot, len(self.epoch))
        order = np.random.default_rng([self.seed, epoch]).permutation(self.epoch)
        if len(self.negatives) and rng.random() < self.negative_share:
            sample = self._sample(int(rng.choice(self.negatives, p=self.negative_odds)), rng)
            return to_model_input(jitter_color(sample, rng, **self.color))
        sample = self._sample(int(order[place]), rng)
        if rng.random() < self.augment.COPY_PASTE:
            sample = copy_paste(sample, self._sample(int(rng.choice(self.epoch)), rng), rng)
        return to_model_input(jitter_color(sample, rng, **self.color))

    def _sample(self, index: int, rng: np.random.Generator) -> Sample:
        """A photo, jittered in scale and position."""
        record = self.records[index]
        return large_scale_jitter(
            self._photo(index),
            [a for a in record["annotations"] if not a.get("iscrowd")],
            rng,
            crop_size=self.augment.CROP_SIZE,
            scale=(self.augment.SCALE_MIN, self.augment.SCALE_MAX),
            flip=self.augment.FLIP,
            photo_size=(record["height"], record["width"]),
            tile=self.augment.TILE,
        )

    @cached_property
    def _photo(self) -> Callable[[int], np.ndarray]:
        """:meth:`_read` with a cache of the most recently used photos. Made in the process that uses it."""
        largest = 3 * (self.augment.CROP_SIZE * self.augment.SCALE_MAX) ** 2  # bytes of what `_read` returns
        return lru_cache(max(1, int(CACHE_BYTES / largest)))(self._read)

    def _read(self, index: int) -> np.ndarray:
        """Decode a photo, (H, W, 3) uint8 BGR, downscaled to the largest size that the augmentation can ask for."""
        image = read_image(self.records[index]["file_name"], format="BGR")
        factor = self.augment.CROP_SIZE * self.augment.SCALE_MAX / (self.augment.TILE or max(image.shape[:2]))
        if factor < 1:
            return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(image)


def epoch_of(records: list[Record], threshold: float) -> np.ndarray:
    """Indices of the photos that make an epoch: each once, or by its repeat factor (Gupta et al. 2019, LVIS).

    A photo's factor is sqrt(threshold / the share of photos that show its rarest class), at least 1. Factors are
    rounded to quarters and an epoch is four times as long, so that it is the same list whatever the step.
    """
    if not threshold:
        return np.arange(len(records))
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, threshold)
    return np.repeat(np.arange(len(records)), np.round(4 * factors.numpy()).astype(int))


def is_negative(record: Record) -> bool:
    """Whether a photo has no object to train on."""
    return all(a.get("iscrowd") for a in record["annotations"])


def without_objects(records: list[Record], epoch: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Split an epoch's photos into those without an object to train on (each once) and the others.

    Raises:
        UserError: ``share`` is not from 0 to below 1, or one of the two is missing.
    """
    if not 0 <= share < 1:
        raise UserError(f"FINETUNE.NEGATIVE_SHARE {share:g} must be -1, or from 0 to below 1")
    empty = np.array([is_negative(record) for record in records])
    if empty.all() or (share and not empty.any()):
        raise UserError(
            f"FINETUNE.NEGATIVE_SHARE {share:g} needs photos with and without objects in train, which has "
            f"{np.count_nonzero(~empty)} and {np.count_nonzero(empty)}: `data import --negatives` adds some"
        )
    return np.flatnonzero(empty), epoch[~empty[epoch]]


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


def training_loader(
    records: list[Record], cfg: CfgNode, false_scores: dict[str, float], start: int, stop: int
) -> DataLoader:
    """Yield this process's batches ``start`` … ``stop - 1`` in order, prefetched by DATALOADER.NUM_WORKERS processes.

    ``records`` and ``false_scores`` as in :class:`TrainingBatches`.
    """
    ranks = {"rank": comm.get_rank(), "world_size": comm.get_world_size()}
    batches = TrainingBatches(records, cfg, false_scores=false_scores, **ranks)
    on_gpu = device_type(cfg) == "cuda"
    workers = cfg.DATALOADER.NUM_WORKERS
    if workers < 0:
        share = usable_cores() // comm.get_local_size()
        workers = min(max(share, 1), WORKERS_BESIDE_GPU if on_gpu else WORKERS_BESIDE_CPU)
    return DataLoader(
        batches,
        sampler=range(start, stop),
        batch_size=None,  # an item is a whole batch already
        num_workers=workers,
        worker_init_fn=_start_worker,
        persistent_workers=workers > 0,
        pin_memory=on_gpu,
    )


def _start_worker(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the main process, which ends its workers
    cv2.setNumThreads(0)
