"""The pictures of a report: precision–recall curves, photos with truth beside prediction, the comparison.

Colours are Okabe and Ito's, told apart by colour-blind eyes; lines differ by dashes, points by shape as well.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data.detection_utils import read_image
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from finetune.data.masks import to_rle
from finetune.evaluation.matching import ImageScore

BLUE, ORANGE, GREEN, VERMILION, PURPLE, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#000000",
)  # fmt: skip
KIND_NAMES = {"segm": "masks", "bbox": "boxes"}
PANEL = 720  # longest side of a drawn photo, pixels
BAND = 34  # height of the caption above it


def draw_precision_recall(curves: dict[str, dict[str, np.ndarray]], title: str, path: Path) -> None:
    """Draw precision against recall, masks left and boxes right.

    Args:
        curves: kind → label → precision (101,) at recalls 0, 0.01, … 1.
    """
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    for axes, (kind, lines) in zip(figure.subplots(1, 2), curves.items(), strict=True):
        for (label, precision), colour, dashes in zip(
            lines.items(), (BLUE, VERMILION, BLACK), ("-", "--", ":"), strict=False
        ):
            recall = np.linspace(0, 1, len(precision))
            axes.plot(
                recall,
                precision,
                dashes,
                color=colour,
                linewidth=2,
                label=f"{label}: {100 * precision.mean():.1f}",
            )
        axes.set(title=KIND_NAMES[kind], xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.03))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if lines:  # below the axes, where it covers no curve
            axes.legend(title="average precision (%)", loc="upper center", bbox_to_anchor=(0.5, -0.17))
    figure.suptitle(title)
    figure.savefig(path, format="png", dpi=120)


def draw_truth_and_prediction(
    record: dict[str, Any],
    first_annotation_id: int,
    results: Sequence[dict[str, Any]],
    score: ImageScore,
    classes: Sequence[str],
) -> Image.Image:
    """Draw a photo twice: annotated objects left, detections right; blue is right, striped is wrong.

    Args:
        record: the photo's standard dict.
        first_annotation_id: the id that ``finetune.evaluation.matching.ground_truth`` gave its first annotation.
        results: all COCO results of the split, to which ``score.right`` and ``score.wrong`` point.
    """
    photo = read_image(record["file_name"], format="RGB")
    scale = min(PANEL / max(photo.shape[:2]), 1.0)
    size = (round(photo.shape[1] * scale), round(photo.shape[0] * scale))
    photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)

    truth = [
        (
            to_rle(annotation["segmentation"], record["width"], record["height"]),
            first_annotation_id + i in score.found_ids or bool(annotation.get("iscrowd")),
            classes[annotation["category_id"]] if len(classes) > 1 else "",
        )
        for i, annotation in enumerate(record["annotations"])
    ]
    seen = [
        (
            results[i]["segmentation"],
            right,
            (f"{classes[results[i]['category_id'] - 1]} " if len(classes) > 1 else "")
            + f"{results[i]['score']:.2f}",
        )
        for right, indices in ((True, score.right), (False, score.wrong))
        for i in indices
    ]
    width, height = size
    width = max(width, 330)  # room for the caption
    page = Image.new("RGB", (2 * width + 8, height + BAND), "white")
    captions = (
        f"truth: {score.found} of {score.objects} found",
        f"prediction: {score.false} false · mask IoU {score.mean_iou:.2f}"
        if score.found
        else f"prediction: {score.false} false",
    )
    draw = ImageDraw.Draw(page)
    for x, objects, caption in ((0, truth, captions[0]), (width + 8, seen, captions[1])):
        page.paste(_with_masks(photo, objects), (x, BAND))
        draw.text((x + 6, 7), caption, fill="black", font=ImageFont.load_default(17))
    return page


def _with_masks(photo: np.ndarray, objects: Sequence[tuple[dict, bool, str]]) -> Image.Image:
    """Outline each mask on a copy of the (H, W, 3) photo; stripe the wrong ones; write the labels."""
    canvas = photo.copy()
    height, width = photo.shape[:2]
    stripes = np.add.outer(np.arange(height), np.arange(width)) % 12 < 4
    labels = []
    for rle, right, label in objects:
        mask = cv2.resize(coco_mask.decode(rle), (width, height), interpolation=cv2.INTER_NEAREST)
        colour = _rgb(BLUE if right else VERMILION)
        if not right:
            canvas[(mask > 0) & stripes] = colour
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(canvas, contours, -1, (255, 255, 255), 4)  # a white rim shows on any ground
        cv2.drawContours(canvas, contours, -1, colour, 2)
        if contours and label:
            x, y, *_ = cv2.boundingRect(np.concatenate(contours))
            labels.append((min(x, width - 50), max(y - 16, 0), label, colour))
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(13)
    for x, y, label, colour in labels:
        draw.rectangle(
            draw.textbbox((x, y), label, font=font, anchor="lt"), fill=colour, outline=colour, width=2
        )
        draw.text((x, y), label, fill="white", font=font, anchor="lt")
    return image


def draw_comparison(rows: Sequence[dict[str, Any]], title: str, latency_label: str, path: Path) -> None:
    """Draw mask AP50 (with its interval) against latency, one point a row that has both.

    Args:
        rows: as ``finetune.evaluation.compare.row_of`` makes them.
    """
    points = [
        row
        for row in rows
        if row["latency_ms"] is not None and row["segm"] and row["segm"]["AP50"] is not None
    ]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    shapes = "os^DvPX*"
    colours = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, BLACK)
    for i, row in enumerate(points):
        ap, interval = row["segm"]["AP50"], row["segm"].get("intervals", {}).get("AP50")
        spread = [[max(ap - interval[0], 0)], [max(interval[1] - ap, 0)]] if interval else None
        colour = colours[i % len(colours)]
        axes.errorbar(
            row["latency_ms"], ap, spread, fmt=shapes[i % len(shapes)], color=colour, markersize=9, capsize=4
        )
        axes.annotate(
            f"{row['name']}\n{ap:.1f}",
            (row["latency_ms"], ap),
            xytext=(9, 7),
            textcoords="offset points",
            color=colour,
        )
    axes.set(title=title, xlabel=latency_label, ylabel="mask AP50 (%), 95 % interval")
    if points:
        axes.set_xlim(0, 1.35 * max(row["latency_ms"] for row in points))
    else:
        axes.text(0.5, 0.5, "no run has both an AP and a latency", ha="center", transform=axes.transAxes)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png", dpi=120)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
