"""What a predictor hands up: the one type between the tensors below and the requests above."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Detections:  # one image, by falling score, at most max_detections
    boxes: np.ndarray  # (N, 4) float32, XYXY, pixels of the image
    scores: np.ndarray  # (N,) float32
    class_ids: np.ndarray  # (N,) int64
    # (N, 28, 28) float32, mask probabilities inside the box (Detectron2's pred_masks before pasting)
    masks: np.ndarray
