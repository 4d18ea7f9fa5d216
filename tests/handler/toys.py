"""Stand-ins for the handler's tests: instances with plausible masks, and a predictor without a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from handler.model import Detections, Wanted


def blob_detections(count: int, height: int, width: int, seed: int = 0, classes: int = 1) -> Detections:
    """``count`` instances of wobbly round masks in boxes of balloon-like sizes, by falling score."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.08, 0.35, (count, 2)) * min(height, width)
    corner = rng.uniform(0, 1, (count, 2)) * (np.array([width, height]) - size)
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    waves = rng.integers(2, 6, (count, 1, 1))
    edge = 0.85 + 0.12 * np.sin(waves * angle + rng.uniform(0, 6, (count, 1, 1)))
    masks = 1 / (1 + np.exp((radius - edge) * 18))
    scores = np.sort(rng.uniform(0.5, 1, count))[::-1]
    return Detections(
        boxes, scores.astype(np.float32), rng.integers(0, classes, count), masks.astype(np.float32)
    )


CARD = {
    "format": 1,
    "name": "maskrcnn",
    "version": "toy",
    "backbone": "toy",
    "classes": ["balloon"],
    "weights_sha256": "0" * 64,
}
"""An archive's card."""


class FakePredictor:
    """A predictor that finds ``count`` blobs in every picture and remembers the batches it was given."""

    def __init__(self, count: int = 3, classes: Sequence[str] = ("balloon",)) -> None:
        self.count = count
        self.card: dict = CARD | {"classes": list(classes)}
        self.device, self.precision, self.engine, self.threads = "cpu", "fp32", "toy", 1
        self.batches: list[list[tuple[int, ...]]] = []
        self.wanted: list[Wanted] = []
        self.warmed: list[tuple[tuple[int, ...], int]] = []

    def network_shape(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def warm_up(self, image: np.ndarray, batch_size: int) -> None:
        self.warmed.append((image.shape, batch_size))

    def predict(
        self, images: Sequence[np.ndarray], wanted: Sequence[Wanted] | None = None
    ) -> list[Detections]:
        self.wanted = list(wanted or ())
        self.batches.append([image.shape for image in images])
        assert all(image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 for image in images)
        return [
            blob_detections(self.count, *image.shape[:2], classes=len(self.card["classes"]))
            for image in images
        ]
