"""Photos in, detections out: everything about tensors, nothing about requests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_DETECTIONS = 300
"""The most instances that a predictor returns for one photo."""


@dataclass(frozen=True)
class Wanted:
    """What a caller needs of the instances in one photo, so that no masks are computed for the others.

    Attributes:
        score_threshold: keep instances whose score is at least this.
        max_detections: keep at most this many, the best first.
        classes: 0-based class ids to keep; None keeps all.
        masks: False leaves every mask zero.
    """

    score_threshold: float = 0.0
    max_detections: int = MAX_DETECTIONS
    classes: frozenset[int] | None = None
    masks: bool = True


@dataclass(frozen=True)
class Detections:
    """The predictor's output for one photo: N instances by falling score.

    Attributes:
        boxes: (N, 4) float32, XYXY in pixels of the photo.
        scores: (N,) float32.
        class_ids: (N,) int64, 0-based.
        masks: (N, M, M) float32, mask probabilities inside each box (Detectron2's ``pred_masks`` before pasting).
    """

    boxes: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray
    masks: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def scaled(self, size: tuple[int, int], photo: tuple[int, int]) -> Detections:
        """The same in pixels of ``photo`` (height, width), found in an image of ``size``."""
        if size == photo:
            return self
        (height, width), (photo_height, photo_width) = size, photo
        factor = np.array([photo_width / width, photo_height / height] * 2, np.float32)
        return Detections(self.boxes * factor, self.scores, self.class_ids, self.masks)

    def __getitem__(self, index: np.ndarray) -> Detections:
        """The instances at ``index``, (K,) of integers or (N,) of bool."""
        return Detections(self.boxes[index], self.scores[index], self.class_ids[index], self.masks[index])
