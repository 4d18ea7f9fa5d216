"""Photos in, detections out: everything about tensors, nothing about requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

MAX_DETECTIONS = 300
"""The most instances that one run of the network returns for one photo, or tile of it."""

MAX_INSTANCES = 3000
"""The most instances in one photo, which only tiles can reach."""


@dataclass(frozen=True)
class Wanted:
    """What a caller needs of the instances in one photo, so that no masks are computed for the others.

    Attributes:
        score_threshold: keep instances whose score is at least this.
        max_detections: keep at most this many, the best first.
        classes: 0-based class ids to keep; None keeps all.
        masks: False leaves every mask zero.
        tiles: side in pixels of the tiles in which to look at the photo, too (:mod:`handler.model.tiles`); 0: none.
    """

    score_threshold: float = 0.0
    max_detections: int = MAX_DETECTIONS
    classes: frozenset[int] | None = None
    masks: bool = True
    tiles: int = 0


@dataclass(frozen=True)
class Detections:
    """The predictor's output for one photo: N instances by falling score.

    Attributes:
        boxes: (N, 4) float32, XYXY in pixels of the photo.
        scores: (N,) float32.
        class_ids: (N,) int64, 0-based.
        masks: (N, M, M) float32, mask probabilities inside each box (Detectron2's ``pred_masks`` before pasting).
        pieces: in tiles, in place of ``masks``: for each instance the masks (K, M, M) that together are its own, and
            their boxes (K, 4).
    """

    boxes: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray
    masks: np.ndarray
    pieces: tuple[tuple[np.ndarray, np.ndarray], ...] | None = None

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
        pieces = self.pieces
        if pieces is not None:
            pieces = tuple(pieces[i] for i in np.arange(len(self))[index])
        return Detections(
            self.boxes[index], self.scores[index], self.class_ids[index], self.masks[index], pieces
        )


class Predictor(Protocol):
    """What the service needs of :class:`handler.model.predictor.Predictor`."""

    card: dict[str, Any]
    device: Any
    precision: str
    engine: str
    threads: int

    def predict(
        self, images: Sequence[np.ndarray], wanted: Sequence[Wanted] | None = None
    ) -> list[Detections]: ...

    def network_shape(self, height: int, width: int) -> tuple[int, int]: ...

    def warm_up(self, image: np.ndarray, batch_size: int) -> None: ...
