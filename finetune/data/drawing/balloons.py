"""Draw one balloon: its shaded surface, its exact outline, its knot and its pattern.

A rubber balloon is a surface of revolution. Along its axis t = -1 (top) … 1 (neck) its radius is

    R(t) = c (1 + t)^0.5 (1 - t)^p

with p from 0.5 (an ellipse) to 0.85 (a pear with a conical neck). So the normal of every visible point, and
with it all light, is known in closed form, and the outline is antialiased by its distance in pixels.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from finetune.data.drawing.canvas import Color, Light, hsv, smoothstep


@dataclass(frozen=True)
class Patch:
    """A piece of picture to be laid over the canvas at column ``x``, row ``y``."""

    x: int
    y: int
    color: np.ndarray  # (h, w, 3) float32
    alpha: np.ndarray  # (h, w) float32, how much of the canvas it hides
    # (h, w) float32, how much of each pixel lies inside the outline: what the mask is made of
    cover: np.ndarray
    knot: tuple[float, float]  # where the string is tied


def balloon_color(rng: np.random.Generator) -> Color:
    """A colour that balloons are sold in."""
    kind = rng.random()
    if kind < 0.62:  # bright: red, orange, yellow, green, blue, purple, pink
        hue = rng.choice(
            [0.0, 0.01, 0.06, 0.12, 0.15, 0.3, 0.36, 0.5, 0.57, 0.62, 0.66, 0.75, 0.83, 0.92, 0.97]
        )
        return hsv(hue + rng.normal(0, 0.012), rng.uniform(0.7, 0.97), rng.uniform(0.65, 0.98))
    if kind < 0.82:  # pastel
        return hsv(rng.random(), rng.uniform(0.18, 0.45), rng.uniform(0.85, 0.98))
    if kind < 0.92:
        return hsv(rng.random(), rng.uniform(0, 0.06), rng.uniform(0.86, 0.97))  # white, pearl
    if kind < 0.96:
        return hsv(0.11, rng.uniform(0.4, 0.65), rng.uniform(0.7, 0.85))  # gold
    return hsv(rng.random(), rng.uniform(0, 0.5), rng.uniform(0.08, 0.2))  # black and very dark ones


def draw_balloon(
    rng: np.random.Generator,
    center: tuple[float, float],
    radius: float,
    tilt: float,
    light: Light,
    color: Color,
) -> Patch:
    """Draw one balloon.

    Args:
        center: x and y of its middle, in pixels of the canvas.
        radius: half its largest width, in pixels.
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
    normal_across, normal_along = side / steep, -slope / steep
    normal_z = np.sqrt(1 - side * side) / steep
    normal = (cos * normal_across - sin * normal_along, sin * normal_across + cos * normal_along, normal_z)

    rubber, print_alpha = color, None
    if rng.random() < 0.22 and radius > 14:
        print_alpha = pattern(rng, np.arcsin(side) / math.pi, t, radius)
        ink = hsv(rng.random(), float(rng.choice([0.0, 0.8])), 0.97) if color.max() > 0.5 else hsv(0, 0, 0.95)
        rubber = rubber + (ink - rubber) * print_alpha[..., None]
    lit = shade(rng, rubber, normal, light)

    # Rubber is thin: near the middle one looks straight through two skins, at the rim along them.
    clear = max(0.0, rng.uniform(-0.5, 0.3))
    alpha = cover * (1 - clear * normal_z**2)
    if print_alpha is not None:
        alpha = np.maximum(alpha, cover * print_alpha)
    tip = (center[0] - sin * length, center[1] + cos * length)
    knot_color = np.clip(color * 0.62 * (light.key + light.sky) * 0.6, 0, 1)
    _add_knot(lit, alpha, cover, (tip[0] - x0, tip[1] - y0), (-float(sin), float(cos)), radius, knot_color)
    end = radius * 0.1
    return Patch(x0, y0, lit, alpha, cover, (tip[0] - sin * end, tip[1] + cos * end))


def shade(
    rng: np.random.Generator, rubber: np.ndarray, normal: tuple[np.ndarray, ...], light: Light
) -> np.ndarray:
    """Light a glossy, thin skin: ``rubber`` is (3,) or (h, w, 3), ``normal`` three arrays (h, w)."""
    nx, ny, nz = normal
    lx, ly, lz = (float(v) for v in light.direction)
    facing = nx * lx + ny * ly + nz * lz
    # Beer-Lambert: at the rim light passes through more rubber, so the colour is deeper there.
    deep = (1.0 + rng.uniform(0.2, 0.9) * (1 - nz))[..., None]
    albedo = np.exp(np.log(np.clip(rubber, 0.02, 1)) * deep)
    wrapped = np.clip(facing * 0.6 + 0.4, 0, 1)
    wrapped = wrapped * np.sqrt(wrapped)
    through = np.clip(-(nx * lx + ny * ly), 0, 1) ** 2 * rng.uniform(0.05, 0.45)  # shines out on the far side
    up = (0.5 - 0.5 * ny)[..., None]
    lit = albedo * ((wrapped + through)[..., None] * light.key + up * light.sky + (1 - up) * light.ground)

    norm = math.sqrt(2 + 2 * lz)  # of the vector halfway between lamp and eye (Blinn-Phong)
    gloss = np.clip((facing + nz) / norm, 0, 1)
    sharp = rng.uniform(90, 400)
    strength = rng.uniform(0.35, 0.95)
    # spherical Gaussians: gloss ** n without the underflows that make a power slow
    spark = strength * np.exp(sharp * (gloss - 1)) + rng.uniform(0.05, 0.22) * np.exp(14 * (gloss - 1))
    if rng.random() < 0.5:  # a window or a second lamp
        wx, wy = rng.uniform(-0.6, 0.6), rng.uniform(-0.5, 0.7)
        spark = spark + strength * 0.6 * np.exp(-(((nx - wx) / 0.07) ** 4) - ((ny - wy) / 0.11) ** 4)
    rim = (1 - nz) ** 4 * 0.25  # Fresnel
    return np.clip(lit + spark[..., None] * (0.4 + 0.6 * light.key) + rim[..., None] * light.sky, 0, 1)


def pattern(rng: np.random.Generator, around: np.ndarray, along: np.ndarray, radius: float) -> np.ndarray:
    """What is printed on a balloon: (h, w) in 0..1.

    Args:
        around: -0.5..0.5 from the left rim to the right one, as an angle. along: -1..1 from top to neck.
    """
    soft = 1.2 / radius  # about a pixel
    turn = rng.random()
    kind = int(rng.integers(5))
    if kind == 0:  # dots, every other row shifted
        rows = int(rng.integers(4, 9))
        v = along * rows / 2
        u = (around + turn) * rows + 0.5 * (np.floor(v) % 2)
        distance = np.hypot((u % 1 - 0.5) * np.sqrt(1 - along * along), v % 1 - 0.5)
        return smoothstep(-soft * rows, soft * rows, rng.uniform(0.18, 0.32) - distance)
    if kind == 1:  # stripes from pole to pole, or in a spiral
        wave = np.sin(
            2 * math.pi * (around * int(rng.integers(3, 8)) + turn + along * float(rng.choice([0, 0, 1.5])))
        )
        return smoothstep(-soft * 10, soft * 10, wave)
    if kind == 2:  # bands
        return smoothstep(-soft * 10, soft * 10, np.sin(along * rng.uniform(6, 14) + turn * 6))
    if kind == 3:  # a printed badge or face
        u, v = (around - rng.uniform(-0.15, 0.15)) * 2.4, along - rng.uniform(-0.25, 0.1)
        ring = np.abs(np.hypot(u, v) - 0.42) - 0.05
        eyes = np.hypot((np.abs(u) - 0.15) * 1.4, v + 0.1) - 0.07
        mouth = np.maximum(np.abs(np.hypot(u, v - 0.02) - 0.22) - 0.035, 0.05 - v)
        return smoothstep(-soft, soft, -np.minimum(np.minimum(ring, eyes), mouth))
    count = rng.integers(12, 40)  # confetti
    distance = np.full(along.shape, 9.0, dtype=np.float32)
    spots = rng.uniform((-0.5, -0.9, 0.02), (0.5, 0.8, 0.08), (count, 3))
    for u, v, size in spots.tolist():
        distance = np.minimum(distance, np.hypot((around - u) * 2, along - v) - size)
    return smoothstep(-soft, soft, -distance)


def _add_knot(
    lit: np.ndarray,
    alpha: np.ndarray,
    cover: np.ndarray,
    tip: tuple[float, float],
    axis: tuple[float, float],
    radius: float,
    color: Color,
) -> None:
    """Tie the neck: a small cone with a rolled lip, drawn into the patch in place."""
    size = radius * 0.085
    across = (axis[1], -axis[0])

    def at(right: float, down: float) -> tuple[float, float]:
        return (
            tip[0]
            + size * (right * across[0] + down * axis[0])
            - 0.5,  # cv2 puts whole numbers at pixel centres
            tip[1] + size * (right * across[1] + down * axis[1]) - 0.5,
        )

    outline = [
        at(-0.55, -0.9),
        at(0.55, -0.9),
        at(0.3, 0.2),
        at(1.0, 1.15),
        at(0.45, 1.45),
        at(-0.5, 1.4),
        at(-1.0, 1.1),
    ]
    outline.append(at(-0.3, 0.2))
    fixed = np.round(np.array(outline) * 16).astype(np.int32)
    shape = np.zeros(cover.shape, dtype=np.uint8)
    cv2.fillPoly(shape, [fixed], 255, lineType=cv2.LINE_AA, shift=4)
    knot = shape.astype(np.float32) / 255
    only = (knot * (1 - cover))[..., None]
    lit += (color - lit) * only
    np.maximum(alpha, knot, out=alpha)
    np.maximum(cover, knot, out=cover)
