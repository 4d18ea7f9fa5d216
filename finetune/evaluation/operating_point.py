"""The operating point: which detections are shown. ``evaluate --split val`` chooses it; export and publish keep it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from statistics import fmean, stdev
from typing import Any

import click

from finetune.checkpoints.run import Run
from finetune.errors import UserError
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
    import torch
    from torchvision.ops import batched_nms

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
