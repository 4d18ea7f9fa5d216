"""Draw balloons and exact masks of them: stand-ins for photos in the demo and in tests.

A rubber balloon is a surface of revolution. Along its axis t = -1 (top) … 1 (neck) its radius is

    R(t) = c (1 + t)^0.5 (1 - t)^p

with p from 0.5 (an ellipse) to 0.85 (a pear with a conical neck). So the normal of every visible point, and with it
the light, is known in closed form, and the outline is antialiased by its distance in pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

# A balloon of which less can be seen is left out of the picture, so that none goes unlabelled.
MIN_VISIBLE = 0.12  # of its area
MIN_PIXELS = 40
LIGHT = np.array([-0.45, -0.6, 0.66])  # from the upper left, towards the camera


@dataclass(frozen=True)
class Patch:
    """A piece of picture to be laid over the canvas at column ``x``, row ``y``."""

    x: int
    y: int
    color: np.ndarray  # (h, w, 3) float32, 0..1
    cover: np.ndarray  # (h, w) float32, how much of each pixel lies inside the outline


def draw_scene(
    seed: int | Sequence[int], width: int, height: int, *, empty: bool = False
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw one picture with its balloons.

    Args:
        seed: the same seed draws the same picture.
        width: in pixels.
        height: in pixels.
        empty: leave the balloons out.

    Returns:
        The picture, (H, W, 3) uint8 RGB, and one (H, W) bool mask per balloon: the pixels of which it covers more
        than half, occluded ones excluded, so no two masks overlap.
    """
    rng = np.random.default_rng(seed)
    picture = _background(rng, height, width)
    visible: list[tuple[Patch, np.ndarray]] = []
    while not visible and not empty:
        visible = _balloons(rng, height, width)
    for patch, _ in visible:
        rows, columns, inner = overlap(picture.shape, patch)
        picture[rows, columns] += (patch.color[inner] - picture[rows, columns]) * patch.cover[inner][
            ..., None
        ]
    grain = rng.uniform(0.005, 0.03) * rng.standard_normal(picture.shape, dtype=np.float32)
    exposed = (picture + grain) * rng.uniform(0.85, 1.15)
    return (np.clip(exposed, 0, 1) * 255 + 0.5).astype(np.uint8), [mask for _, mask in visible]


def draw_balloon(
    rng: np.random.Generator, center: tuple[float, float], radius: float, tilt: float, color: np.ndarray
) -> Patch:
    """Draw one balloon.

    Args:
        center: x and y of its middle, in pixels of the canvas.
        radius: half its largest width, in pixels.
        tilt: how far its neck is turned from hanging straight down, in radians, clockwise on the screen.
        color: (3,) of the rubber, RGB, 0..1.
    """
    neck = rng.uniform(0.52, 0.82)  # the p above
    length = radius * rng.uniform(1.06, 1.3)
    cos, sin = math.cos(tilt), math.sin(tilt)
    reach_x = math.ceil(abs(cos) * radius + abs(sin) * length) + 2
    reach_y = math.ceil(abs(sin) * radius + abs(cos) * length) + 2
    x0, y0 = math.floor(center[0]) - reach_x, math.floor(center[1]) - reach_y
    dx = np.arange(2 * reach_x + 1, dtype=np.float32)[None, :] + (x0 + 0.5 - center[0])
    dy = np.arange(2 * reach_y + 1, dtype=np.float32)[:, None] + (y0 + 0.5 - center[1])
    across, along = cos * dx + sin * dy, cos * dy - sin * dx

    t = np.clip(along / length, -0.9999, 0.9999)
    widest = (neck - 0.5) / (neck + 0.5)  # where the derivative of R is 0, from the middle towards the top
    scale = radius / ((1 - widest) ** 0.5 * (1 + widest) ** neck)
    half = scale * np.sqrt(1 + t) * np.exp(neck * np.log(1 - t))
    slope = half * (0.5 / (1 + t) - neck / (1 - t)) / length
    # R² - x² over its gradient: the distance to the outline in pixels, good near it
    edge = (half * half - across * across) / (2 * np.hypot(across, half * slope) + 1e-6)
    cover = np.clip(np.minimum(edge, length - np.abs(along)) + 0.5, 0, 1)

    steep = np.sqrt(1 + slope * slope)
    side = np.clip(across / np.maximum(half, 1e-3), -1, 1)
    normal_across, normal_along = side / steep, -slope / steep
    normal_z = np.sqrt(1 - side * side) / steep
    normal = np.stack(
        [cos * normal_across - sin * normal_along, sin * normal_across + cos * normal_along, normal_z],
        axis=-1,
    )
    return Patch(x0, y0, _shade(rng, color, normal), cover.astype(np.float32))


def _shade(rng: np.random.Generator, color: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Light a glossy skin; ``normal`` is (h, w, 3)."""
    facing = normal @ LIGHT
    # Beer-Lambert: at the rim light passes through more rubber, so the color is deeper there
    deep = 1 + rng.uniform(0.2, 0.9) * (1 - normal[..., 2:])
    diffuse = color.clip(0.02, 1) ** deep * (0.35 + 0.65 * np.clip(facing * 0.6 + 0.4, 0, 1)[..., None])
    gloss = np.clip((facing + normal[..., 2]) / math.sqrt(2 + 2 * LIGHT[2]), 0, 1)
    spark = rng.uniform(0.4, 0.9) * np.exp(rng.uniform(90, 400) * (gloss - 1))
    return np.clip(diffuse + spark[..., None], 0, 1).astype(np.float32)


def balloon_color(rng: np.random.Generator) -> np.ndarray:
    """A color that balloons are sold in: bright, pastel, white or dark; (3,) RGB, 0..1."""
    saturation, value = [(0.85, 0.85), (0.85, 0.85), (0.85, 0.85), (0.3, 0.92), (0.03, 0.93), (0.4, 0.15)][
        int(rng.integers(6))
    ]
    return _hsv(rng.random(), saturation + rng.uniform(-0.1, 0.1), value + rng.uniform(-0.1, 0.06))


def overlap(canvas: Sequence[int], patch: Patch) -> tuple[slice, slice, tuple[slice, slice]]:
    """The rows and columns of a canvas (H, W, …) under a patch, and the same part of the patch."""
    height, width = patch.cover.shape
    top, left = min(max(patch.y, 0), canvas[0]), min(max(patch.x, 0), canvas[1])
    bottom, right = max(min(patch.y + height, canvas[0]), top), max(min(patch.x + width, canvas[1]), left)
    inner = slice(top - patch.y, bottom - patch.y), slice(left - patch.x, right - patch.x)
    return slice(top, bottom), slice(left, right), inner


def _balloons(rng: np.random.Generator, height: int, width: int) -> list[tuple[Patch, np.ndarray]]:
    """Place balloons in a bunch or scattered; each with the mask of its visible pixels, far ones first."""
    count = int(rng.choice([1, 2, 3, 5, 8, 12, 16]))
    size = height * rng.uniform(0.1, 0.3) / count**0.25
    middle = np.array([rng.uniform(0.25, 0.75) * width, rng.uniform(0.25, 0.6) * height])
    spread = size * math.sqrt(count) if rng.random() < 0.6 else height * 0.4
    free = np.ones((height, width), dtype=np.float32)  # the share of each pixel that nothing nearer covers
    visible = []
    for _ in range(count):  # from near to far
        center = middle + rng.normal(0, spread * 0.6, 2)
        radius = max(size * rng.uniform(0.7, 1.3), 4)
        patch = draw_balloon(rng, (center[0], center[1]), radius, rng.normal(0, 0.3), balloon_color(rng))
        rows, columns, inner = overlap(free.shape, patch)
        seen = free[rows, columns] * patch.cover[inner] > 0.5
        if np.count_nonzero(seen) < max(MIN_PIXELS, MIN_VISIBLE * float(patch.cover.sum())):
            continue
        mask = np.zeros((height, width), dtype=bool)
        mask[rows, columns] = seen
        free[rows, columns] *= 1 - patch.cover[inner]
        visible.append((patch, mask))
    return visible[::-1]


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A gradient above a horizon, one below it, and soft blotches; (H, W, 3) float32."""
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    horizon = rng.uniform(0.5, 1.1)
    top, middle, bottom = (_hsv(rng.random(), rng.uniform(0, 0.5), rng.uniform(0.3, 0.95)) for _ in range(3))
    picture = np.where(rows < horizon, top + (middle - top) * rows, bottom * (1.2 - 0.5 * rows))
    cells = rng.random((8, 10), dtype=np.float32)
    blotches = cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    return np.asarray(np.broadcast_to(picture, (height, width, 3)) * (0.8 + 0.4 * blotches), dtype=np.float32)


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """A color by hue, saturation and value, each 0..1; (3,) RGB."""
    pixel = np.array([[[hue % 1 * 360, np.clip(saturation, 0, 1), np.clip(value, 0, 1)]]], dtype=np.float32)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0]
