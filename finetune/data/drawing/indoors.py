"""Draw rooms and walls to stand behind balloons; canvas and colours as in ``canvas``."""

import math

import cv2
import numpy as np

from finetune.data.drawing.canvas import Color, bgr8, gradient, hsv, noise, to_canvas
from finetune.data.drawing.outdoors import foliage, sky


def room(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A wall with or without a paper, a floor of boards, a window, pictures, a sofa, a shelf of books."""
    tone = hsv(rng.random(), rng.uniform(0.02, 0.4), rng.uniform(0.5, 0.95))
    wall = gradient(height, width, tone * rng.uniform(0.8, 1.0), tone * rng.uniform(0.75, 1.0))
    paper = rng.random()
    if paper < 0.25:
        period = width / rng.integers(12, 40)
        wall *= (1 - rng.uniform(0.04, 0.16) * (np.sin(np.arange(width) * 2 * math.pi / period) > 0))[
            None, :, None
        ]
    elif paper < 0.4:
        canvas = bricks(rng, height, width, tone)
        wall = canvas.astype(np.float32) / 255
    canvas = to_canvas(wall * (0.92 + 0.12 * noise(rng, height, width, width / 2, 5))[..., None])
    floor = int(height * rng.uniform(0.72, 1.05))
    for _ in range(int(rng.integers(0, 4))):
        _picture(canvas, rng, floor)
    if rng.random() < 0.45:
        _window(canvas, rng, floor)
    if floor < height:
        _floor(canvas, rng, floor)
    if rng.random() < 0.5:
        _sofa(canvas, rng, floor)
    if rng.random() < 0.35:
        _books(canvas, rng, floor)
    return canvas


def _picture(canvas: np.ndarray, rng: np.random.Generator, floor: int) -> None:
    height, width = canvas.shape[:2]
    w, h = int(width * rng.uniform(0.08, 0.2)), int(height * rng.uniform(0.1, 0.28))
    x, y = int(rng.uniform(0, 0.9) * width), int(rng.uniform(0.02, 0.4) * floor)
    frame = int(max(w * 0.06, 2))
    cv2.rectangle(canvas, (x + 3, y + 4), (x + w + 4, y + h + 5), (60, 55, 50), -1)
    cv2.rectangle(
        canvas, (x, y), (x + w, y + h), bgr8(hsv(0.08, rng.uniform(0, 0.6), rng.uniform(0.1, 0.9))), -1
    )
    inner = canvas[y + frame : y + h - frame, x + frame : x + w - frame]
    if inner.size:
        rows, columns = inner.shape[:2]
        inner[:] = to_canvas(
            gradient(rows, columns, hsv(rng.random(), 0.4, 0.8), hsv(rng.random(), 0.5, 0.5))
        )
        spot = (int(rng.uniform(0.2, 0.8) * columns), int(rng.uniform(0.2, 0.8) * rows))
        cv2.circle(inner, spot, max(rows // 5, 1), bgr8(hsv(rng.random(), 0.7, 0.8)), -1, cv2.LINE_AA)


def _window(canvas: np.ndarray, rng: np.random.Generator, floor: int) -> None:
    height, width = canvas.shape[:2]
    w, h = int(width * rng.uniform(0.2, 0.4)), int(floor * rng.uniform(0.45, 0.7))
    x, y = int(rng.uniform(0.05, 0.65) * width), int(floor * rng.uniform(0.05, 0.18))
    view = canvas[y : y + h, x : x + w]
    rows, columns = view.shape[:2]
    view[:] = to_canvas(0.35 + 0.7 * sky(rng, rows, columns))
    foliage(view, rng, columns * rng.random(), rows, columns * 0.35, hsv(0.28, 0.35, 0.75))
    white = bgr8(hsv(0.1, 0.05, rng.uniform(0.8, 1)))
    bar = max(width // 110, 2)
    cv2.rectangle(canvas, (x, y), (x + w, y + h), white, bar * 2)
    cv2.line(canvas, (x + w // 2, y), (x + w // 2, y + h), white, bar)
    cv2.line(canvas, (x, y + h // 2), (x + w, y + h // 2), white, bar)
    if rng.random() < 0.6:  # curtains, in folds
        cloth = hsv(rng.random(), rng.uniform(0, 0.6), rng.uniform(0.5, 0.95))
        span = int(w * rng.uniform(0.16, 0.32))
        for left in (x - span // 2, x + w - span // 2):
            for column in range(max(left, 0), min(left + span, width)):
                fold = 0.8 + 0.2 * math.sin(column * 40 / width * 6)
                canvas[max(y - 8, 0) : min(y + h + 14, height), column] = bgr8(cloth * fold)


def _floor(canvas: np.ndarray, rng: np.random.Generator, floor: int) -> None:
    height, width = canvas.shape[:2]
    rows = height - floor
    tone = hsv(rng.uniform(0.05, 0.1), rng.uniform(0.1, 0.6), rng.uniform(0.3, 0.75))
    wood = (
        gradient(rows, width, tone * 0.85, tone)
        * (0.8 + 0.3 * noise(rng, rows, width, 30, 3, stretch=8))[..., None]
    )
    canvas[floor:] = to_canvas(wood)
    vanishing = rng.uniform(0.2, 0.8) * width
    for i in range(-14, 15):  # gaps between the boards run to a vanishing point
        end = vanishing + i * width * 0.16
        start = vanishing + (end - vanishing) * 0.45
        cv2.line(canvas, (int(start), floor), (int(end), height), bgr8(tone * 0.6), 1, cv2.LINE_AA)
    cv2.line(
        canvas, (0, floor), (width, floor), bgr8(hsv(0, 0, rng.uniform(0.5, 0.95))), max(height // 60, 2)
    )


def _sofa(canvas: np.ndarray, rng: np.random.Generator, floor: int) -> None:
    height, width = canvas.shape[:2]
    cloth = hsv(rng.random(), rng.uniform(0.1, 0.6), rng.uniform(0.25, 0.7))
    w, h = int(width * rng.uniform(0.35, 0.6)), int(height * rng.uniform(0.16, 0.26))
    x, y = int(rng.uniform(-0.1, 0.7) * width), min(floor, height) - h + height // 25
    parts = [
        (0.0, 0.0, 1.0, 0.6, 0.8),
        (0.05, 0.45, 0.95, 0.95, 1.0),
        (-0.06, 0.3, 0.1, 1.0, 0.9),
        (0.9, 0.3, 1.06, 1.0, 0.85),
    ]
    for left, top, right, bottom, light in parts:
        for inset in range(5):  # rounded by darker rims
            a = (int(x + left * w) + inset, int(y + top * h) + inset)
            b = (int(x + right * w) - inset, int(y + bottom * h) - inset)
            cv2.rectangle(canvas, a, b, bgr8(cloth * light * (0.75 + 0.06 * inset)), -1)


def _books(canvas: np.ndarray, rng: np.random.Generator, floor: int) -> None:
    height, width = canvas.shape[:2]
    x0, w = int(rng.uniform(0, 0.7) * width), int(width * rng.uniform(0.2, 0.35))
    wood = bgr8(hsv(0.07, 0.5, rng.uniform(0.25, 0.6)))
    for y in range(int(floor * 0.15), int(floor * 0.7), max(height // 8, 8)):
        x = x0
        while x < x0 + w:
            thick, tall = int(rng.uniform(0.008, 0.03) * width) + 1, int(height * rng.uniform(0.06, 0.1))
            cv2.rectangle(
                canvas,
                (x, y - tall),
                (x + thick, y),
                bgr8(hsv(rng.random(), rng.uniform(0.1, 0.8), rng.uniform(0.2, 0.85))),
                -1,
            )
            x += thick + 1
        cv2.rectangle(canvas, (x0 - 4, y), (x0 + w + 6, y + max(height // 90, 2)), wood, -1)


def wall(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A photographer's paper or a plain, plastered or brick wall, lit from one side."""
    tone = hsv(rng.random(), rng.uniform(0, 0.5), rng.uniform(0.3, 0.97))
    if rng.random() < 0.3:
        brick = hsv(rng.uniform(0.01, 0.07), rng.uniform(0.3, 0.6), rng.uniform(0.4, 0.75))
        return bricks(rng, height, width, brick)
    picture = gradient(height, width, tone, tone * rng.uniform(0.6, 1.0))
    plaster = noise(rng, height, width, width / 5, 7) - 0.5
    return to_canvas(picture * (1 + rng.uniform(0.02, 0.3) * plaster)[..., None])


def bricks(rng: np.random.Generator, height: int, width: int, tone: Color) -> np.ndarray:
    """A brick wall, every brick of its own shade."""
    canvas = np.empty((height, width, 3), dtype=np.uint8)
    canvas[:] = bgr8(tone * 0.7 + 0.12)
    brick = max(height // int(rng.integers(14, 30)), 6)
    for row, y in enumerate(range(0, height, brick)):
        for x in range(-(row % 2) * brick, width, brick * 2):
            shade = bgr8(tone * rng.uniform(0.72, 1.0))
            cv2.rectangle(canvas, (x + 1, y + 1), (x + brick * 2 - 2, y + brick - 2), shade, -1)
    return canvas
