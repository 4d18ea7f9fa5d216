"""Draw what stands behind balloons: sky, park, room, wall, street at night.

All functions draw on a canvas: uint8 RGB, (H, W, 3), because OpenCV antialiases only in 8 bits.
"""

import math

import cv2
import numpy as np

from finetune.data.drawing.canvas import Color, bgr8, gradient, hsv, noise, smoothstep, to_canvas


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
