"""All figures: training curves, precision–recall curves, AP against time, photos with truth beside prediction.

The colors are Okabe and Ito's, which color-blind people can tell apart; lines also differ by dashes, points by shape.
"""

import json
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.detection_utils import read_image
from detectron2.utils.visualizer import Visualizer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from finetune.data.masks import to_rle
from finetune.evaluation.coco_eval import Matches
from finetune.evaluation.operating_point import SCORES, count
from finetune.evaluation.photo_scores import ImageScore
from finetune.files import write_atomically

BLUE, ORANGE, GREEN, VERMILION, PURPLE, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#000000",
)  # fmt: skip
Record = dict[str, Any]
KIND_NAMES = {"segm": "masks", "bbox": "boxes"}
PANEL = 720  # longest side of a drawn photo, pixels
LOSSES = {
    "total_loss": "total",
    "loss_cls": "box class",
    "loss_box_reg": "box position",
    "loss_mask": "mask",
    "loss_rpn_cls": "proposal objectness",
    "loss_rpn_loc": "proposal position",
}


def draw_training_curves(run: Path) -> None:
    """Draw losses and val AP against the step, from a run folder's ``metrics.json`` into its ``curves.png``."""
    path = run / "metrics.json"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for key, label in LOSSES.items():
        _plot_metric(left, rows, key, label, linewidth=2.2 if key == "total_loss" else 1.2)
    for key, label in {"val/segm_AP": "mask AP", "val/bbox_AP": "box AP"}.items():
        _plot_metric(right, rows, key, label, marker="o")
    left.set(title="Training loss (median of 20 steps)", xlabel="step", ylabel="loss", ylim=(0, None))
    right.set(title="AP on the val split", xlabel="step", ylabel="AP (%)", ylim=(0, 100))
    for axes in (left, right):
        if axes.lines:
            axes.legend(frameon=False)
    _save(figure, run / "curves.png")


def _plot_metric(axes: Axes, rows: Sequence[dict[str, Any]], key: str, label: str, **style: Any) -> None:
    points = [(row["iteration"] + 1, row[key]) for row in rows if row.get(key) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, **style)


def draw_curves(
    precision: dict[str, np.ndarray],
    per_class: Sequence[Matches],
    chosen: float | None,
    title: str,
    path: Path,
) -> None:
    """Draw precision against recall; precision, recall and F1 against the score threshold; a reliability diagram.

    Args:
        precision: label → precision (101,) at recalls 0, 0.01, … 1.
        per_class: what matches by mask, as ``finetune.evaluation.coco_eval.match`` returns it.
        chosen: the score threshold of all classes; None if there is not one.
    """
    figure = Figure(figsize=(16, 5.6), layout="constrained")
    left, right, third = figure.subplots(1, 3)
    counts = count(per_class)
    by_recall = {f"{label}: AP {100 * values.mean():.1f}": values for label, values in precision.items()}
    by_score = {"F1": counts.f1, "precision": counts.precision, "recall": counts.recall}
    for axes, lines in (left, by_recall), (right, by_score):
        styles = zip((BLUE, VERMILION, BLACK), ("-", "--", ":"), strict=True)
        for (label, values), (color, dashes) in zip(lines.items(), styles, strict=False):
            x = SCORES if axes is right else np.linspace(0, 1, len(values))
            axes.plot(x, values, dashes, color=color, linewidth=2, label=label)
        axes.set(xlim=(0, 1.01), ylim=(0, 1.03))
    if chosen is not None:
        right.axvline(chosen, color=GREEN, linewidth=1.5, label=f"operating point {chosen:g}")
    left.set(xlabel="recall", ylabel="precision")
    right.set(xlabel="score threshold", title="At a mask IoU of 0.5")
    _draw_reliability(third, per_class)
    for axes in (left, right, third):
        if axes.lines:  # below the axes, where the legend covers no curve
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)
    figure.suptitle(title)
    _save(figure, path)


def _draw_reliability(axes: Axes, per_class: Sequence[Matches]) -> None:
    """The share of right detections in each tenth of the scores (Guo et al. 2017)."""
    scores = [
        np.concatenate([m.scores[getattr(m, which)[0]] for m in per_class]) for which in ("found", "false")
    ]
    right, wrong = (np.histogram(values, bins=10, range=(0, 1))[0] for values in scores)
    number, centers = right + wrong, np.linspace(0.05, 0.95, 10)
    axes.bar(centers, right / np.maximum(number, 1), 0.1, color=BLUE, alpha=0.35, edgecolor=BLUE)
    axes.plot([0, 1], [0, 1], "--", color=BLACK, linewidth=1.2, label="calibrated")
    for i in np.flatnonzero(number):
        axes.text(centers[i], right[i] / number[i] + 0.015, str(number[i]), ha="center", fontsize=8)
    axes.set(
        title="Share of right detections; numbers count all", xlabel="score", xlim=(0, 1), ylim=(0, 1.06)
    )


def draw_ap_against_time(
    points: Sequence[tuple[float, float, Sequence[float] | None, str]],
    title: str,
    ap: str,
    path: Path,
    *,
    front: Sequence[tuple[float, float]] = (),
    lowest: float = 0.0,
) -> None:
    """Draw AP against milliseconds a photo.

    Args:
        points: milliseconds, AP, its interval or None, and a label; points without a label are gray.
        ap: what the vertical axis shows.
        front: milliseconds and AP of the settings that no other beats in both, joined by steps.
        lowest: with ``front``, the AP below which nothing is chosen.
    """
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    styles = cycle(zip((BLUE, VERMILION, GREEN, PURPLE, ORANGE, BLACK), "os^DvP", strict=True))
    for milliseconds, value, interval, label in points:
        color, shape = next(styles) if label else ("gray", ".")
        spread = [[max(value - interval[0], 0)], [max(interval[1] - value, 0)]] if interval else None
        axes.errorbar(milliseconds, value, spread, fmt=shape, color=color, markersize=9, capsize=4)
        place = (milliseconds, value)
        axes.annotate(label, place, xytext=(9, 7), textcoords="offset points", color=color, fontsize=9)
    if front:
        axes.step(*zip(*front, strict=True), where="post", color=BLACK, linewidth=1, label="Pareto front")
        axes.axhline(lowest, color=BLACK, linestyle=":", label="lowest AP allowed")
        axes.legend(loc="lower right", frameon=False)
    if points:
        axes.set_xlim(0, 1.4 * max(point[0] for point in points))
    else:
        axes.text(0.5, 0.5, "no run has both an AP and a time", ha="center", transform=axes.transAxes)
    axes.set(title=title, xlabel="ms a photo", ylabel=ap)
    _save(figure, path)


def draw_truth_and_prediction(
    record: Record,
    first_annotation_id: int,
    results: Sequence[Record],
    score: ImageScore,
    classes: Sequence[str],
    path: Path,
) -> None:
    """Draw a photo twice, annotations left, detections right; what is right in blue, what is wrong in vermilion.

    Args:
        record: the photo's standard dict.
        first_annotation_id: the id that ``finetune.evaluation.coco_eval.ground_truth`` gives its first annotation.
        results: all COCO results of the split, to which ``score.right`` and ``score.wrong`` point.
    """
    names = classes if len(classes) > 1 else [""]
    truth, seen = list[tuple[Any, str, bool]](), list[tuple[Any, str, bool]]()
    for i, annotation in enumerate(record["annotations"]):
        found = first_annotation_id + i in score.found_ids or bool(annotation.get("iscrowd"))
        rle = to_rle(annotation["segmentation"], record["width"], record["height"])
        truth.append((rle, names[annotation["category_id"]], found))
    for index in (*score.right, *score.wrong):
        name = names[results[index]["category_id"] - 1]
        label = f"{name} {results[index]['score']:.2f}".strip()
        seen.append((results[index]["segmentation"], label, index in score.right))
    iou = f", mask IoU {score.mean_iou:.2f}" if score.found else ""
    captions = f"truth: {score.found} of {score.objects} found", f"prediction: {score.false} false{iou}"

    photo = read_image(record["file_name"], format="RGB")
    height, width = photo.shape[:2]
    figure = Figure(figsize=(13, 6.5 * height / width + 0.4), layout="constrained")
    for axes, objects, caption in zip(figure.subplots(1, 2), (truth, seen), captions, strict=True):
        canvas = Visualizer(photo, scale=min(PANEL / max(height, width), 1))
        if objects:
            masks, labels, right = zip(*objects, strict=True)
            colors = [BLUE if each else VERMILION for each in right]
            canvas.overlay_instances(masks=masks, labels=labels, assigned_colors=colors)
        axes.imshow(canvas.output.get_image())
        axes.set_axis_off()
        axes.set_title(caption)
    figure.savefig(path, dpi=110)


def _save(figure: Figure, path: Path) -> None:
    """Write a figure whose axes hold curves or points."""
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))
