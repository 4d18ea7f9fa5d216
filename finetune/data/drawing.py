"""Pictures of balloons with exact masks, drawn with numpy and OpenCV.

A rubber balloon is a surface of revolution. Along its axis t = -1 (top) … 1 (neck) its radius is

    R(t) = c (1 + t)^0.5 (1 - t)^p

with p from 0.5 (an ellipse) to 0.85 (a pear). So the normal of every visible point, and with it the shading, is known
in closed form. Pictures are (H, W, 3) RGB; x points right, y down, z towards the viewer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

Color = np.ndarray  # (3,) float32, RGB in 0..1
Rng = np.random.Generator
Point = tuple[float, float]  # x and y in pixels

# A balloon of which less is visible is left out of the picture, so that none goes unlabeled.
MIN_VISIBLE = 0.12  # of its area
MIN_PIXELS = 40


@dataclass(frozen=True)
class Light:
    """One key light and ambient light from above."""

    direction: np.ndarray  # (3,) unit vector from the object to the lamp
    key: Color
    sky: Color


@dataclass(frozen=True)
class Placed:
    """Where to draw a balloon; ``anchor`` is where its string ends, None for no string."""

    x: float
    y: float
    radius: float
    tilt: float
    color: Color
    anchor: Point | None


@dataclass(frozen=True)
class Patch:
    """A drawn balloon, to be laid over the picture at column ``x``, row ``y``."""

    x: int
    y: int
    color: np.ndarray  # (h, w, 3) float32
    cover: np.ndarray  # (h, w) float32, the share of each pixel inside the outline
    knot: Point  # where the string is tied

    def over(self, canvas: np.ndarray) -> tuple[slice, slice, tuple[slice, slice]]:
        """The rows and columns of the canvas that the patch covers, and the same part of the patch."""
        (height, width), (rows, columns) = canvas.shape[:2], self.cover.shape
        top, left = min(max(self.y, 0), height), min(max(self.x, 0), width)
        bottom, right = max(min(self.y + rows, height), top), max(min(self.x + columns, width), left)
        inner = slice(top - self.y, bottom - self.y), slice(left - self.x, right - self.x)
        return slice(top, bottom), slice(left, right), inner


def draw_scene(
    seed: int | Sequence[int], width: int, height: int, *, empty: bool = False
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw one picture with its balloons.

    Args:
        seed: the same seed draws the same picture.
        width, height: in pixels.
        empty: leave the balloons out.

    Returns:
        The picture, (H, W, 3) uint8 RGB, and one (H, W) bool mask per balloon: the pixels of which it covers more than
        half, without occluded ones, so no two masks overlap. A string belongs to no mask.
    """
    rng = np.random.default_rng(seed)
    light = draw_light(rng)
    canvas = _background(rng, height, width)
    _add_clutter(canvas, rng)
    if blur := rng.choice([0.0, 0.6, 1.5]) * height / 480:
        canvas = cv2.GaussianBlur(canvas, (0, 0), blur)
    visible: list[tuple[Placed, Patch, np.ndarray]] = []
    while not visible and not empty:
        visible = _place(rng, light, height, width)
    _add_strings(canvas, rng, [(placed, patch) for placed, patch, _ in visible])
    picture = canvas.astype(np.float32) / 255
    for _, patch, _ in visible:
        rows, columns, inner = patch.over(picture)
        under = picture[rows, columns]
        under += (patch.color[inner] - under) * patch.cover[inner][..., None]
    return _expose(picture, rng), [mask for _, _, mask in visible]


def hsv(hue: float, saturation: float, value: float) -> Color:
    """A color by hue, saturation and value, each 0..1."""
    pixel = np.array([[[hue % 1 * 360, saturation, value]]], dtype=np.float32)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0]


def balloon_color(rng: Rng) -> Color:
    """A color that balloons are sold in: mostly bright, some pastel, white or dark."""
    kind = rng.random()
    if kind < 0.65:
        hue = rng.choice([0.0, 0.02, 0.06, 0.12, 0.15, 0.3, 0.36, 0.5, 0.57, 0.64, 0.75, 0.83, 0.92])
        return hsv(hue + rng.normal(0, 0.012), rng.uniform(0.7, 0.97), rng.uniform(0.65, 0.98))
    if kind < 0.93:
        return hsv(rng.random(), rng.uniform(0.02, 0.45), rng.uniform(0.85, 0.98))
    return hsv(rng.random(), rng.uniform(0, 0.5), rng.uniform(0.1, 0.25))


def draw_light(rng: Rng) -> Light:
    """Choose where the light comes from, and its colors."""
    direction = np.array([rng.uniform(-0.8, 0.8), rng.uniform(-0.9, -0.15), rng.uniform(0.35, 0.9)])
    warmth = rng.uniform(-0.06, 0.08)
    tint = np.array([1 + warmth, 1, 1 - warmth], dtype=np.float32)
    key, sky = rng.uniform(0.6, 0.85) * tint, rng.uniform(0.25, 0.5) * (2 - tint)
    return Light(direction / np.linalg.norm(direction), key.astype(np.float32), sky.astype(np.float32))


def draw_balloon(rng: Rng, center: Point, radius: float, tilt: float, light: Light, color: Color) -> Patch:
    """Draw one balloon.

    Args:
        center: its middle. radius: half its largest width, in pixels.
        tilt: how far its neck is turned from hanging straight down, in radians, clockwise on the screen.
        color: of the rubber.
    """
    neck = rng.uniform(0.52, 0.82)  # the p above
    length = radius * rng.uniform(1.06, 1.3)
    cos, sin = math.cos(tilt), math.sin(tilt)
    reach_x = math.ceil(abs(cos) * radius + abs(sin) * length + radius * 0.16) + 2
    reach_y = math.ceil(abs(sin) * radius + abs(cos) * length + radius * 0.16) + 2
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
    normal_across, normal_along, nz = side / steep, -slope / steep, np.sqrt(1 - side * side) / steep
    nx, ny = cos * normal_across - sin * normal_along, sin * normal_across + cos * normal_along
    lit = _shade(rng, color, (nx, ny, nz), light)
    tip = (center[0] - sin * length, center[1] + cos * length)
    _add_knot(lit, cover, (tip[0] - x0, tip[1] - y0), (-sin, cos), radius, color * 0.45)
    return Patch(x0, y0, lit, cover, (tip[0] - sin * radius * 0.1, tip[1] + cos * radius * 0.1))


def _shade(rng: Rng, color: Color, normal: tuple[np.ndarray, ...], light: Light) -> np.ndarray:
    """Light a glossy skin of one color; ``normal`` is three arrays (h, w), the result (h, w, 3) float32."""
    nx, ny, nz = normal
    lx, ly, lz = (float(v) for v in light.direction)
    facing = nx * lx + ny * ly + nz * lz
    diffuse = np.clip(facing * 0.6 + 0.4, 0, 1) ** 1.5
    # Beer-Lambert: at the rim light passes through more rubber, so the color is deeper there.
    albedo = np.clip(color, 0.02, 1) ** (1 + rng.uniform(0.2, 0.9) * (1 - nz))[..., None]
    lit = albedo * (diffuse[..., None] * light.key + (0.6 - 0.4 * ny)[..., None] * light.sky)
    gloss = np.clip((facing + nz) / math.sqrt(2 + 2 * lz), 0, 1)  # Blinn-Phong
    spark = rng.uniform(0.35, 0.95) * np.exp(rng.uniform(90, 400) * (gloss - 1))
    spark = spark + rng.uniform(0.05, 0.22) * np.exp(14 * (gloss - 1))
    return np.clip(lit + spark[..., None], 0, 1).astype(np.float32)


def _add_knot(
    lit: np.ndarray, cover: np.ndarray, tip: Point, axis: Point, radius: float, color: Color
) -> None:
    """Draw the knot, a small cone with a lip, into the patch in place."""
    shape = [(-0.55, -0.9), (0.55, -0.9), (0.3, 0.2), (1.0, 1.2), (-1.0, 1.2), (-0.3, 0.2)]
    frame = np.array([(axis[1], -axis[0]), axis])  # right and down, as seen from the balloon
    points = np.array(tip) + radius * 0.085 * (np.array(shape) @ frame) - 0.5  # cv2 counts from pixel centers
    drawn = np.zeros(cover.shape, dtype=np.uint8)
    cv2.fillPoly(drawn, [np.round(points * 16).astype(np.int32)], 255, lineType=cv2.LINE_AA, shift=4)
    knot = drawn.astype(np.float32) / 255
    lit += (color - lit) * (knot * (1 - cover))[..., None]
    np.maximum(cover, knot, out=cover)


def _rgb8(color: Color) -> tuple[int, ...]:
    """A color as OpenCV's drawing functions take it (the canvas is RGB, so the order stays)."""
    return tuple((np.clip(color, 0, 1) * 255).astype(int).tolist())


def _noise(rng: Rng, height: int, width: int, cell: float) -> np.ndarray:
    """Blobs of three sizes, the largest ``cell`` pixels wide: (height, width) float32 in 0..1."""
    total = np.zeros((height, width), dtype=np.float32)
    for share, size in ((4 / 7, cell), (2 / 7, cell / 2), (1 / 7, cell / 4)):
        grid = rng.random((int(height / size) + 2, int(width / size) + 2), dtype=np.float32)
        total += share * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(total, 0, 1)


def _background(rng: Rng, height: int, width: int) -> np.ndarray:
    """Sky above grass, or a wall above a floor: (H, W, 3) uint8."""
    outdoors = rng.random() < 0.5
    if outdoors:
        top, bottom = hsv(rng.uniform(0.54, 0.62), rng.uniform(0.3, 0.7), 0.8), hsv(0.58, 0.1, 0.97)
        ground = hsv(rng.uniform(0.2, 0.33), rng.uniform(0.4, 0.7), rng.uniform(0.3, 0.6))
    else:
        top = hsv(rng.random(), rng.uniform(0, 0.35), rng.uniform(0.4, 0.95))
        bottom = top * 0.85
        ground = hsv(rng.uniform(0.05, 0.12), rng.uniform(0.1, 0.5), rng.uniform(0.25, 0.7))
    share = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    picture = np.repeat(top + (bottom - top) * share, width, axis=1)
    horizon = int(height * rng.uniform(0.6, 0.9))
    picture[horizon:] = ground
    clouds = _noise(rng, height, width, width / (4 if outdoors else 12))[..., None]
    picture *= 1 + (0.35 if outdoors else 0.15) * (clouds - 0.5)
    picture[horizon:] *= 0.7 + 0.6 * _noise(rng, height - horizon, width, 6)[..., None]
    return (np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _add_clutter(canvas: np.ndarray, rng: Rng) -> None:
    """Draw flat shapes that are no balloons into the canvas: triangles, boxes and discs."""
    height, width = canvas.shape[:2]
    for corners in rng.choice([3, 4, 4, 40], rng.integers(2, 9)).tolist():
        color = _rgb8(hsv(rng.random(), rng.uniform(0, 0.9), rng.uniform(0.15, 0.95)))
        size, center = height * rng.uniform(0.03, 0.15), rng.uniform((0, 0.3), 1) * (width, height)
        angles = np.linspace(0, 2 * math.pi, corners, endpoint=False) + math.pi / 4
        points = center + size * np.stack([np.cos(angles), np.sin(angles) * rng.uniform(0.7, 1)], axis=1)
        cv2.fillPoly(canvas, [points.astype(np.int32)], color, cv2.LINE_AA)


def _group(rng: Rng, height: int, width: int) -> list[Placed]:
    """Arrange balloons, from far to near: a bunch on strings, single ones, or a few that fill the picture."""
    palette = [balloon_color(rng) for _ in range(int(rng.choice([1, 3, 6])))]
    kind, tilts = rng.random(), 0.2
    if kind < 0.4:  # a bunch whose strings meet in one point
        count, radius = int(rng.integers(4, 17)), height * rng.uniform(0.05, 0.12)
        spread = radius * math.sqrt(count) * rng.uniform(0.9, 1.3)
        angles, reach = rng.uniform(0, 2 * math.pi, count), spread * np.sqrt(rng.random(count))
        xs = rng.uniform(0.25, 0.75) * width + reach * np.cos(angles)
        ys = rng.uniform(0.25, 0.5) * height + reach * 0.9 * np.sin(angles)
        radii = radius * rng.uniform(0.85, 1.15, count)
        hand = (float(xs.mean()), float(min(ys.max() + height * 0.4, height * 1.2)))
        anchors: list[Point | None] = [hand] * count
    else:
        close = kind > 0.8
        count = int(rng.integers(1, 4) if close else rng.integers(1, 12))
        low, high = (0.18, 0.36) if close else (0.03, 0.18)
        radii = np.sort(height * np.exp(rng.uniform(math.log(low), math.log(high), count)))
        xs, ys = rng.uniform(0.05, 0.95, count) * width, rng.uniform(0.1, 0.85, count) * height
        anchors = [(x, y + radius * 6) for x, y, radius in zip(xs, ys, radii, strict=True)]
        tilts = float(rng.choice([0.2, 0.2, 2.0]))
        if tilts > 1:  # lying about: no strings
            anchors = [None] * count
    colors = [palette[i] for i in rng.integers(len(palette), size=count)]
    tilted = rng.normal(0, tilts, count).tolist()
    return [Placed(*each) for each in zip(xs, ys, radii, tilted, colors, anchors, strict=True)]


def _place(rng: Rng, light: Light, height: int, width: int) -> list[tuple[Placed, Patch, np.ndarray]]:
    """Choose and draw the balloons, far ones first, each with the mask of its visible pixels."""
    free = np.ones((height, width), dtype=np.float32)  # the share of each pixel that nothing nearer covers
    visible = []
    for placed in reversed(_group(rng, height, width)):  # from near to far
        patch = draw_balloon(rng, (placed.x, placed.y), placed.radius, placed.tilt, light, placed.color)
        rows, columns, inner = patch.over(free)
        seen = free[rows, columns] * patch.cover[inner] > 0.5
        if np.count_nonzero(seen) < max(MIN_PIXELS, MIN_VISIBLE * float(patch.cover.sum())):
            continue
        mask = np.zeros((height, width), dtype=bool)
        mask[rows, columns] = seen
        free[rows, columns] *= 1 - patch.cover[inner]
        visible.append((placed, patch, mask))
    return visible[::-1]


def _add_strings(canvas: np.ndarray, rng: Rng, balloons: list[tuple[Placed, Patch]]) -> None:
    """Draw slightly slack strings into the canvas, behind all balloons."""
    color, share = _rgb8(hsv(rng.random(), 0.2, rng.uniform(0.3, 1))), np.linspace(0, 1, 16)
    for placed, patch in balloons:
        if placed.anchor is None:
            continue
        (x0, y0), (x1, y1) = patch.knot, placed.anchor
        slack = rng.normal(0, 0.12) * abs(y1 - y0)
        xs = x0 + (x1 - x0) * share + slack * share * (1 - share)
        points = np.stack([xs, y0 + (y1 - y0) * share], axis=1)
        thickness = max(round(placed.radius / 45), 1)
        cv2.polylines(canvas, [points.astype(np.int32)], False, color, thickness, cv2.LINE_AA)


def _expose(picture: np.ndarray, rng: Rng) -> np.ndarray:
    """Add white balance, blur and grain; float32 → uint8."""
    picture = picture * (1 + rng.normal(0, 0.04, 3)).astype(np.float32) * np.float32(rng.uniform(0.92, 1.15))
    if rng.random() < 0.5:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.1) * picture.shape[0] / 480)
    picture = picture + rng.uniform(0.002, 0.02) * rng.standard_normal(picture.shape, dtype=np.float32)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
