"""Draw what stands behind balloons: sky, park, room, wall, street at night.

All functions draw on a canvas: uint8 RGB, (H, W, 3), because OpenCV antialiases only in 8 bits.
"""

import math

import cv2
import numpy as np

from finetune.data.balloon_art import Color, hsv, smoothstep


def bgr8(color: Color) -> tuple[int, int, int]:
    """A colour as OpenCV's drawing functions want it (the canvas is RGB, so the order stays)."""
    r, g, b = (int(v) for v in np.clip(color, 0, 1) * 255)
    return r, g, b


def noise(
    rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 4, stretch: float = 1.0
) -> np.ndarray:
    """Fractal value noise, (height, width) float32, about 0..1.

    Args:
        cell: size of the largest blobs in pixels. stretch: how much wider than high they are.
    """
    total, weight = np.zeros((height, width), dtype=np.float32), 0.0
    for octave in range(octaves):
        size = max(cell / 2**octave, 1.0)
        rows, columns = math.ceil(height / size) + 3, math.ceil(width / (size * stretch)) + 3
        grid = rng.random((rows, columns), dtype=np.float32)
        fine = cv2.resize(
            grid, (int(columns * size * stretch), int(rows * size)), interpolation=cv2.INTER_CUBIC
        )
        total += fine[:height, :width] * 0.5**octave
        weight += 0.5**octave
    return total / weight


def gradient(height: int, width: int, *stops: Color) -> np.ndarray:
    """Colours from top to bottom, (height, width, 3) float32."""
    column = cv2.resize(
        np.array(stops, dtype=np.float32)[:, None], (1, height), interpolation=cv2.INTER_LINEAR
    )
    return np.repeat(column.reshape(height, 1, 3), width, axis=1)


def to_canvas(picture: np.ndarray) -> np.ndarray:
    """float32 in 0..1 → uint8."""
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def sky(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A sky with clouds, by day or at dusk; float32."""
    if rng.random() < 0.75:
        hue = rng.uniform(0.54, 0.62)
        picture = gradient(
            height,
            width,
            hsv(hue + 0.02, rng.uniform(0.4, 0.8), rng.uniform(0.55, 0.9)),
            hsv(hue, rng.uniform(0.08, 0.3), 0.97),
        )
        cloud = hsv(hue, 0.02, rng.uniform(0.9, 1.0))
    else:
        picture = gradient(
            height,
            width,
            hsv(0.66, 0.45, rng.uniform(0.35, 0.6)),
            hsv(0.9, 0.3, 0.75),
            hsv(rng.uniform(0.05, 0.1), 0.5, 0.97),
        )
        cloud = hsv(0.04, 0.25, 0.9)
    shape = noise(rng, height, width, width / 4, 6, stretch=1.8)
    low = rng.uniform(0.42, 0.66)
    thickness = smoothstep(low, low + rng.uniform(0.12, 0.35), shape) * rng.uniform(0.5, 0.95)
    shadow = 0.8 + 0.2 * noise(rng, height, width, width / 6, 3)
    return picture + (cloud * shadow[..., None] - picture) * thickness[..., None]


def foliage(
    canvas: np.ndarray, rng: np.random.Generator, x: float, y: float, radius: float, color: Color
) -> None:
    """The crown of a tree or a bush: a heap of leaves, lighter towards the upper left."""
    count = int(np.clip(radius * 3, 60, 320))
    angle, reach = rng.uniform(0, 2 * math.pi, count), radius * np.sqrt(rng.random(count))
    xs, ys = x + reach * np.cos(angle), y + reach * 0.85 * np.sin(angle)
    light = 0.75 + 0.3 * (-(xs - x) - 1.5 * (ys - y)) / (2.5 * radius) + rng.normal(0, 0.1, count)
    sizes = rng.uniform(0.07, 0.2, count) * radius + 1
    for i in np.argsort(light):
        axes = (max(int(sizes[i]), 1), max(int(sizes[i] * rng.uniform(0.4, 0.9)), 1))
        cv2.ellipse(
            canvas,
            (int(xs[i]), int(ys[i])),
            axes,
            float(angle[i] * 57),
            0,
            360,
            bgr8(color * light[i]),
            -1,
            cv2.LINE_AA,
        )


def park(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Sky, a row of trees, grass, sometimes a path and a fence."""
    canvas = to_canvas(sky(rng, height, width))
    horizon = int(height * rng.uniform(0.45, 0.75))
    far = hsv(rng.uniform(0.25, 0.45), rng.uniform(0.15, 0.35), rng.uniform(0.4, 0.65))
    ridge = horizon - height * 0.12 * noise(rng, 1, width, width / 3)[0] - height * 0.03
    outline = np.concatenate([np.stack([np.arange(width), ridge], 1), [[width, height], [0, height]]])
    cv2.fillPoly(canvas, [outline.astype(np.int32)], bgr8(far), cv2.LINE_AA)
    for x in np.sort(rng.uniform(-0.05, 1.05, int(rng.integers(3, 13)))) * width:
        size = height * rng.uniform(0.06, 0.2)
        trunk = int(max(size * 0.12, 2))
        cv2.line(
            canvas,
            (int(x), int(horizon - size)),
            (int(x), horizon + 3),
            bgr8(hsv(0.07, 0.5, 0.3)),
            trunk,
            cv2.LINE_AA,
        )
        leaf = hsv(rng.uniform(0.2, 0.36), rng.uniform(0.45, 0.8), rng.uniform(0.3, 0.62))
        foliage(canvas, rng, x, horizon - size * rng.uniform(0.9, 1.5), size, leaf)

    rows = height - horizon
    hue = rng.uniform(0.2, 0.3)
    grass = gradient(rows, width, hsv(hue, 0.5, rng.uniform(0.5, 0.7)), hsv(hue, 0.65, rng.uniform(0.3, 0.5)))
    blades = cv2.blur(rng.random((rows, width), dtype=np.float32), (1, 5))
    grass *= (0.55 + 0.5 * noise(rng, rows, width, rows / 3, 3, stretch=3) + 0.35 * (blades - 0.25))[
        ..., None
    ]
    canvas[horizon:] = to_canvas(grass)
    if rng.random() < 0.4:
        left, right = rng.uniform(0, 0.6) * width, rng.uniform(0.65, 1.2) * width
        middle = rng.uniform(0.3, 0.7) * width
        path = np.array(
            [(middle - 4, horizon), (middle + 6, horizon), (right, height), (left, height)], dtype=np.int32
        )
        cv2.fillPoly(canvas, [path], bgr8(hsv(0.1, 0.15, rng.uniform(0.55, 0.75))), cv2.LINE_AA)
    if rng.random() < 0.3:
        post = hsv(0.08, rng.uniform(0, 0.4), rng.uniform(0.4, 0.9))
        for x in range(int(rng.integers(0, 30)), width, max(width // 14, 8)):
            cv2.line(
                canvas,
                (x, horizon - height // 14),
                (x, horizon + 5),
                bgr8(post),
                max(width // 160, 1),
                cv2.LINE_AA,
            )
        for y in (horizon - height // 18, horizon - height // 40):
            cv2.line(canvas, (0, y), (width, y), bgr8(post * 0.9), max(width // 220, 1), cv2.LINE_AA)
    return canvas


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


def night(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A dark place with lamps far out of focus: flat bright discs that are no balloons."""
    hue = rng.random()
    top, bottom = hsv(hue, 0.5, rng.uniform(0.1, 0.3)), hsv(hue + 0.1, 0.4, rng.uniform(0.15, 0.45))
    picture = gradient(height, width, top, bottom)
    picture *= (0.7 + 0.5 * noise(rng, height, width, width / 3, 4))[..., None]
    canvas = to_canvas(picture)
    size = height * rng.uniform(0.012, 0.06)
    warm = rng.uniform(0.02, 0.15)
    for _ in range(int(rng.integers(15, 60))):
        disc = canvas.copy() if size > 12 else canvas
        spot = (int(rng.random() * width), int(rng.beta(2, 2.5) * height))
        color = hsv(warm if rng.random() < 0.7 else rng.random(), rng.uniform(0.2, 0.7), rng.uniform(0.5, 1))
        cv2.circle(disc, spot, max(int(size * rng.uniform(0.6, 1.2)), 1), bgr8(color), -1, cv2.LINE_AA)
        if disc is not canvas:
            cv2.addWeighted(disc, 0.5, canvas, 0.5, 0, dst=canvas)
    return canvas


def street(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """House fronts with windows and doors under the sky, and a pavement."""
    canvas = to_canvas(sky(rng, height, width))
    ground = int(height * rng.uniform(0.75, 0.95))
    x = 0
    while x < width:
        w = int(width * rng.uniform(0.16, 0.36))
        top = int(height * rng.uniform(-0.1, 0.4))
        tone = hsv(rng.uniform(0, 0.15), rng.uniform(0.05, 0.5), rng.uniform(0.4, 0.9))
        cv2.rectangle(canvas, (x, top), (x + w, ground), bgr8(tone), -1)
        cv2.rectangle(canvas, (x, top), (x + w, top + max(height // 50, 2)), bgr8(tone * 0.75), -1)
        columns, step = int(rng.integers(2, 5)), int(height * rng.uniform(0.14, 0.2))
        for y in range(top + step // 3, ground - step // 2, step):
            for column in range(columns):
                left = x + int((column + 0.28) * w / columns)
                box = (left, y), (left + int(w / columns * 0.5), y + int(step * 0.6))
                cv2.rectangle(canvas, *box, bgr8(hsv(0.58, 0.2, rng.uniform(0.15, 0.6))), -1)
                cv2.rectangle(canvas, *box, bgr8(hsv(0.1, 0.05, 0.9)), 1, cv2.LINE_AA)
        x += w
    grey = hsv(0.6, 0.05, rng.uniform(0.35, 0.65))
    rows = height - ground
    paving = (
        gradient(rows, width, grey, grey * 0.8) * (0.85 + 0.25 * noise(rng, rows, width, 12, 3))[..., None]
    )
    canvas[ground:] = to_canvas(paving)
    texture = 0.9 + 0.2 * noise(rng, height, width, width / 10, 6)
    return to_canvas(canvas.astype(np.float32) / 255 * texture[..., None])
