"""All figures: training curves, precision–recall curves, photos with truth beside prediction, the comparison of runs.

The colors are Okabe and Ito's, which color-blind people can tell apart; lines also differ by dashes, points by shape.
"""

import json
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data.detection_utils import read_image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageColor, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from finetune.data.masks import to_rle
from finetune.evaluation.choose import SCORES, count
from finetune.evaluation.coco_eval import Matches
from finetune.evaluation.photo_scores import ImageScore
from finetune.files import write_atomically

BLUE, ORANGE, GREEN, VERMILION, PURPLE, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#000000",
)  # fmt: skip
KIND_NAMES = {"segm": "masks", "bbox": "boxes"}
PANEL = 720  # longest side of a drawn photo, pixels
BAND = 34  # height of the caption above it
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
        _tidy(axes)
        if axes.lines:
            axes.legend(frameon=False)
    write_atomically(run / "curves.png", lambda temporary: figure.savefig(temporary, format="png", dpi=110))


def _plot_metric(axes: Axes, rows: Sequence[dict[str, Any]], key: str, label: str, **style: Any) -> None:
    points = [(row["iteration"] + 1, row[key]) for row in rows if row.get(key) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, **style)


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw_precision_recall(curves: dict[str, dict[str, np.ndarray]], title: str, path: Path) -> None:
    """Draw precision against recall, masks left and boxes right.

    Args:
        curves: kind → label → precision (101,) at recalls 0, 0.01, … 1.
    """
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    styles = list(zip((BLUE, VERMILION, BLACK), ("-", "--", ":"), strict=True))
    for axes, (kind, lines) in zip(figure.subplots(1, 2), curves.items(), strict=True):
        for (label, precision), (color, dashes) in zip(lines.items(), styles, strict=False):
            text = f"{label}: {100 * precision.mean():.1f}"
            axes.plot(
                np.linspace(0, 1, len(precision)), precision, dashes, color=color, linewidth=2, label=text
            )
        axes.set(title=KIND_NAMES[kind], xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.03))
        _tidy(axes)
        if lines:  # the legend goes below the axes, where it covers no curve
            axes.legend(title="average precision (%)", loc="upper center", bbox_to_anchor=(0.5, -0.17))
    figure.suptitle(title)
    figure.savefig(path, format="png", dpi=120)


def draw_operating_point(per_class: Sequence[Matches], chosen: float, title: str, path: Path) -> None:
    """Draw precision, recall and F1 against the score threshold; and a reliability diagram (Guo et al. 2017).

    Args:
        per_class: what matches by mask, as ``finetune.evaluation.coco_eval.match`` returns it.
        chosen: the score threshold of all classes.
    """
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    counts = count(per_class)
    lines = {"F1": counts.f1, "precision": counts.precision, "recall": counts.recall}
    styles = zip((BLACK, BLUE, VERMILION), ("-", "--", ":"), strict=True)
    for (label, values), (color, dashes) in zip(lines.items(), styles, strict=True):
        left.plot(SCORES, values, dashes, color=color, linewidth=2, label=label)
    left.axvline(chosen, color=GREEN, linewidth=1.5, label=f"operating point {chosen:g}")
    left.set(title="At a mask IoU of 0.5", xlabel="score threshold", xlim=(0, 1.01), ylim=(0, 1.03))

    scores = [
        np.concatenate([m.scores[getattr(m, which)[0]] for m in per_class]) for which in ("found", "false")
    ]
    found, wrong = (np.histogram(values, bins=10, range=(0, 1))[0] for values in scores)
    number = found + wrong
    centers = np.linspace(0.05, 0.95, 10)
    right.bar(centers, found / np.maximum(number, 1), 0.1, color=BLUE, alpha=0.35, edgecolor=BLUE)
    right.plot([0, 1], [0, 1], "--", color=BLACK, linewidth=1.2, label="calibrated")
    for i in np.flatnonzero(number):
        right.text(centers[i], found[i] / number[i] + 0.015, str(number[i]), ha="center", fontsize=8)
    right.set(
        title="Share of right detections; numbers count all", xlabel="score", xlim=(0, 1), ylim=(0, 1.06)
    )
    for axes in (left, right):
        _tidy(axes)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=4, frameon=False)
    figure.suptitle(title)
    figure.savefig(path, format="png", dpi=110)


def draw_comparison(rows: Sequence[dict[str, Any]], title: str, latency_label: str, path: Path) -> None:
    """Draw mask AP50 (with its interval) against latency: one point for each row that has both.

    Args:
        rows: as ``finetune.evaluation.compare.row_of`` makes them.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    points = [
        (row["name"], row["latency_ms"], row["segm"]["AP50"], row["segm"].get("intervals", {}).get("AP50"))
        for row in rows
        if row["latency_ms"] is not None and row["segm"] and row["segm"]["AP50"] is not None
    ]
    styles = zip(cycle((BLUE, VERMILION, GREEN, PURPLE, ORANGE, BLACK)), cycle("os^DvPX*"), strict=False)
    for (name, latency, ap, interval), (color, shape) in zip(points, styles, strict=False):
        spread = [[max(ap - interval[0], 0)], [max(interval[1] - ap, 0)]] if interval else None
        axes.errorbar(latency, ap, spread, fmt=shape, color=color, markersize=9, capsize=4)
        label, place = f"{name}\n{ap:.1f}", (latency, ap)
        axes.annotate(label, place, xytext=(9, 7), textcoords="offset points", color=color)
    axes.set(title=title, xlabel=latency_label, ylabel="mask AP50 (%), 95 % interval")
    if points:
        axes.set_xlim(0, 1.35 * max(latency for _, latency, _, _ in points))
    else:
        axes.text(0.5, 0.5, "no run has both an AP and a latency", ha="center", transform=axes.transAxes)
    _tidy(axes)
    figure.savefig(path, format="png", dpi=120)


def draw_front(
    points: Sequence[tuple[float, float, str, str]],
    front: Sequence[tuple[float, float]],
    lowest: float,
    title: str,
    path: Path,
) -> None:
    """Draw mask AP against milliseconds a photo, with the Pareto front as steps.

    Args:
        points: milliseconds, AP, mark (chosen, as trained, front, or empty), label.
        lowest: the AP below which nothing is chosen.
    """
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.step(*zip(*front, strict=True), where="post", color=BLUE, label="Pareto front")
    axes.axhline(lowest, color=BLACK, linestyle=":", label="lowest AP allowed")
    styles = {"chosen": ("*", VERMILION), "as trained": ("s", BLACK), "front": ("o", BLUE), "": ("o", "gray")}
    for milliseconds, ap, mark, label in points:
        shape, color = styles[mark]
        axes.plot(milliseconds, ap, shape, color=color, markersize=14 if mark == "chosen" else 6)
        text, place = f"{mark}: {label}" if mark else "", (milliseconds, ap)
        axes.annotate(text, place, xytext=(6, -12), textcoords="offset points", color=color, fontsize=8)
    axes.set(title=title, xlabel="ms a photo", ylabel="mask AP (%)")
    axes.set_xlim(0, 1.4 * max(point[0] for point in points))
    axes.legend(loc="lower right", frameon=False)
    _tidy(axes)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))


def draw_truth_and_prediction(
    record: dict[str, Any],
    first_annotation_id: int,
    results: Sequence[dict[str, Any]],
    score: ImageScore,
    classes: Sequence[str],
) -> Image.Image:
    """Draw a photo twice, annotations left, detections right; blue outlines are right, striped masks wrong.

    Args:
        record: the photo's standard dict.
        first_annotation_id: the id that ``finetune.evaluation.coco_eval.ground_truth`` gives its first annotation.
        results: all COCO results of the split, to which ``score.right`` and ``score.wrong`` point.
    """
    names = classes if len(classes) > 1 else [""]
    truth = []
    for i, annotation in enumerate(record["annotations"]):
        found = first_annotation_id + i in score.found_ids or bool(annotation.get("iscrowd"))
        rle = to_rle(annotation["segmentation"], record["width"], record["height"])
        truth.append((rle, found, names[annotation["category_id"]]))
    seen = []
    for right, indices in ((True, score.right), (False, score.wrong)):
        for result in (results[i] for i in indices):
            label = f"{names[result['category_id'] - 1]} {result['score']:.2f}".strip()
            seen.append((result["segmentation"], right, label))
    iou = f" · mask IoU {score.mean_iou:.2f}" if score.found else ""

    photo = read_image(record["file_name"], format="RGB")
    scale = min(PANEL / max(photo.shape[:2]), 1.0)
    height, width = (round(side * scale) for side in photo.shape[:2])
    photo = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
    right_side = max(width, 330) + 8  # room for the caption
    page = Image.new("RGB", (2 * right_side - 8, height + BAND), "white")
    font = ImageFont.load_default(17)
    for x, objects, caption in (
        (0, truth, f"truth: {score.found} of {score.objects} found"),
        (right_side, seen, f"prediction: {score.false} false{iou}"),
    ):
        page.paste(_with_masks(photo, objects), (x, BAND))
        ImageDraw.Draw(page).text((x + 6, 7), caption, fill="black", font=font)
    return page


def _with_masks(photo: np.ndarray, objects: Sequence[tuple[dict, bool, str]]) -> Image.Image:
    """Outline each mask on a copy of the (H, W, 3) photo; stripe the wrong ones; write the labels."""
    canvas = photo.copy()
    height, width = photo.shape[:2]
    stripes = np.add.outer(np.arange(height), np.arange(width)) % 12 < 4
    labels = []
    for rle, right, label in objects:
        mask = cv2.resize(coco_mask.decode(rle), (width, height), interpolation=cv2.INTER_NEAREST)
        color = ImageColor.getrgb(BLUE if right else VERMILION)
        if not right:
            canvas[(mask > 0) & stripes] = color
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(canvas, contours, -1, (255, 255, 255), 4)  # a white rim, visible on any background
        cv2.drawContours(canvas, contours, -1, color, 2)
        if contours and label:
            x, y, *_ = cv2.boundingRect(np.concatenate(contours))
            labels.append(((min(x, width - 50), max(y - 16, 0)), label, color))
    image = Image.fromarray(canvas)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for place, label, color in labels:
        box = draw.textbbox(place, label, font=font, anchor="lt")
        draw.rectangle(box, fill=color, outline=color, width=2)
        draw.text(place, label, fill="white", font=font, anchor="lt")
    return image
