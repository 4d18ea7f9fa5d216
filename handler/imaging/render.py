"""Render detections as PNG: overlay, splash and label map.

All three are painted from one label map, made crop by crop, so memory does not grow with the number of instances.
"""

from __future__ import annotations

import colorsys
import functools
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from handler.imaging.masks import Crop, encode_png, label_map, paste_masks
from handler.model import Detections

# Okabe & Ito 2008, "Color Universal Design": distinct for the common forms of color blindness (without black, and
# ordered so that neighbors differ most)
_OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
FILL = 0.45
"""Opacity of an instance's color, 0..1."""


def color(index: int) -> tuple[int, int, int]:
    """The RGB color of instance ``index``: the palette, then the same hues darker and lighter in turn."""
    code = _OKABE_ITO[index % len(_OKABE_ITO)]
    red, green, blue = (int(code[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    lightness *= (1.0, 0.7, 1.3)[index // len(_OKABE_ITO) % 3]
    r, g, b = colorsys.hls_to_rgb(hue, min(lightness, 0.85), saturation)
    return round(r * 255), round(g * 255), round(b * 255)


def render(output: str, image: np.ndarray, detections: Detections, classes: Sequence[str]) -> bytes:
    """The PNG of the output ``overlay``, ``splash`` or ``labels``; ``image`` is (H, W, 3) uint8 RGB."""
    labels = label_map(detections, *image.shape[:2])
    if output == "labels":
        return encode_png(labels)
    picture = overlay(image, labels, detections, classes) if output == "overlay" else splash(image, labels)
    return encode_png(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


def splash(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The instances in color, the rest in gray; (H, W, 3) uint8 RGB."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    out = cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB)
    cv2.copyTo(image, (labels > 0).astype(np.uint8), out)
    return out


def overlay(
    image: np.ndarray, labels: np.ndarray, detections: Detections, classes: Sequence[str]
) -> np.ndarray:
    """Colored masks, outlines, and labels with class and score; (H, W, 3) uint8 RGB."""
    pairs = zip(detections.class_ids, detections.scores, strict=True)
    captions = [f"{classes[int(class_id)]} {score:.0%}" for class_id, score in pairs]
    colors = [color(i) for i in range(len(detections))]
    return paint(image, labels, paste_masks(detections, *image.shape[:2]), detections.boxes, captions, colors)


def paint(
    image: np.ndarray,
    labels: np.ndarray,
    crops: Iterable[Crop],
    boxes: np.ndarray,
    captions: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
) -> np.ndarray:
    """An overlay of N instances, each with its mask, its box (XYXY, pixels), its caption and its RGB color.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) label map, an instance being its index + 1.
        boxes: (N, 4) float.
    """
    palette = np.array([(0, 0, 0), *colors], np.uint8)
    height, width = image.shape[:2]
    out = image.copy()
    rows = max(1, 2**20 // width)  # a band at a time: the blend's temporaries stay small
    for top in range(0, height, rows):
        band = slice(top, top + rows)
        mask = labels[band] > 0
        if mask.any():
            blend = cv2.addWeighted(out[band], 1 - FILL, palette[labels[band]], FILL, 0)
            out[band][mask] = blend[mask]
    line = max(1, round(min(height, width) / 400))
    for crop, tint in zip(crops, colors, strict=True):
        outlines, _ = (
            cv2.findContours(crop.bits.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            if crop.columns.size
            else ((), None)
        )
        offset = (crop.x, crop.y)
        # a dark line under a thinner one in the instance's color stands out on any background
        cv2.drawContours(out, outlines, -1, (20, 20, 20), 2 * line + 1, cv2.LINE_AA, offset=offset)
        cv2.drawContours(out, outlines, -1, tint, line, cv2.LINE_AA, offset=offset)
    return _draw_captions(out, boxes, captions, colors)


def _draw_captions(
    image: np.ndarray, boxes: np.ndarray, captions: Sequence[str], colors: Sequence[tuple[int, int, int]]
) -> np.ndarray:
    """Each caption above its box, else inside its top, else below it; omitted where there is no room."""
    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    size = max(11, round(min(height, width) / 45))
    font = label_font(size)
    pad = max(2, round(size / 5))
    occupied: list[tuple[float, float, float, float]] = []
    for (x0, y0, _, y1), text, fill in zip(boxes.tolist(), captions, colors, strict=True):
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        w, h = right - left + 2 * pad, bottom - top + 2 * pad
        x = max(0.0, min(x0, width - w))
        for y in (y0 - h, y0, y1):
            place = (x, y, x + w, y + h)
            if 0 <= y <= height - h and not any(_overlap(place, other) for other in occupied):
                occupied.append(place)
                draw.rectangle(place, fill=fill)
                draw.text((x + pad - left, y + pad - top), text, fill=ink(fill), font=font)
                break
    return np.asarray(picture)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def ink(fill: tuple[int, int, int]) -> str:
    """Black or white, whichever contrasts more with ``fill`` (WCAG 2.1: black above luminance 0.179)."""
    luminance = np.dot((0.2126, 0.7152, 0.0722), (np.array(fill) / 255) ** 2.2)
    return "black" if luminance > 0.179 else "white"


@functools.cache
def label_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans, which matplotlib ships and which covers most alphabets; else Pillow's default."""
    matplotlib = importlib.util.find_spec("matplotlib")  # located, not imported: importing takes a second
    folder = Path(matplotlib.origin).parent if matplotlib and matplotlib.origin else Path()
    try:
        return ImageFont.truetype(folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)
