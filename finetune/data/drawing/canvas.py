"""What all drawing shares: colours, light, noise, and laying one picture over another.

Two kinds of pictures are used: float32 RGB in 0..1, and the *canvas*, uint8 RGB, because OpenCV antialiases
only in 8 bits. Both are (H, W, 3); x points right, y down, z to the eye.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

Color = np.ndarray  # (3,) float32, RGB in 0..1


@dataclass(frozen=True)
class Light:
    """The light of a scene: one key light, sky above, bounce from below."""

    direction: np.ndarray  # (3,) unit vector from the object to the lamp
    key: Color
    sky: Color
    ground: Color


def hsv(hue: float, saturation: float, value: float) -> Color:
    """A colour by hue, saturation and value, each 0..1."""
    pixel = np.array([[[hue % 1 * 360, saturation, value]]], dtype=np.float32)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0]


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


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
        method = cv2.INTER_CUBIC if size > 8 else cv2.INTER_LINEAR  # no eye sees the difference there
        fine = cv2.resize(grid, (int(columns * size * stretch), int(rows * size)), interpolation=method)
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


def lay(picture: np.ndarray, x: int, y: int, color: np.ndarray, alpha: np.ndarray) -> None:
    """Lay a patch over a float32 picture, in place; parts outside are cut off."""
    rows, columns, inner = overlap(picture.shape, x, y, alpha.shape)
    under = picture[rows, columns]
    under += (color[inner] - under) * alpha[inner][..., None]


def overlap(
    canvas: tuple[int, ...], x: int, y: int, patch: tuple[int, ...]
) -> tuple[slice, slice, tuple[slice, slice]]:
    """Rows and columns of the canvas that a patch at (x, y) covers, and the same part of the patch."""
    top, left = min(max(y, 0), canvas[0]), min(max(x, 0), canvas[1])
    bottom, right = max(min(y + patch[0], canvas[0]), top), max(min(x + patch[1], canvas[1]), left)
    return slice(top, bottom), slice(left, right), (slice(top - y, bottom - y), slice(left - x, right - x))


class Stencil:
    """A canvas and, drawn with the same strokes, the outline of what is on it."""

    def __init__(self, height: int, width: int) -> None:
        self.color = np.zeros((height, width, 3), dtype=np.uint8)
        self.cover = np.zeros((height, width), dtype=np.uint8)

    def polygon(self, points: list[tuple[float, float]], color: np.ndarray) -> None:
        fixed = [np.round(np.array(points) * 16).astype(np.int32)]
        cv2.fillPoly(self.color, fixed, bgr8(color), cv2.LINE_AA, 4)
        cv2.fillPoly(self.cover, fixed, 255, cv2.LINE_AA, 4)

    def limb(self, points: list[tuple[float, float]], thickness: float, color: np.ndarray) -> None:
        fixed = [np.round(np.array(points)).astype(np.int32)]
        width = max(int(thickness), 1)
        cv2.polylines(self.color, fixed, False, bgr8(color), width, cv2.LINE_AA)
        cv2.polylines(self.cover, fixed, False, 255, width, cv2.LINE_AA)

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: np.ndarray, angle: float = 0) -> None:
        center, axes = (int(x), int(y)), (max(int(rx), 1), max(int(ry), 1))
        cv2.ellipse(self.color, center, axes, angle, 0, 360, bgr8(color), -1, cv2.LINE_AA)
        cv2.ellipse(self.cover, center, axes, angle, 0, 360, 255, -1, cv2.LINE_AA)


def emboss(stencil: Stencil, light: Light, depth: float) -> np.ndarray:
    """Shade flat shapes as if they bulged: (h, w, 3) float32. ``depth`` is the bulge's width in pixels."""
    size = max(int(depth) | 1, 3)
    height = cv2.blur(stencil.cover.astype(np.float32) / 255, (size, size))
    height += cv2.blur(cv2.cvtColor(stencil.color, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255, (5, 5)) * 0.3
    toward = cv2.Sobel(height, cv2.CV_32F, 1, 0) * float(light.direction[0])
    toward += cv2.Sobel(height, cv2.CV_32F, 0, 1) * float(light.direction[1])
    shading = np.clip(0.92 - toward * depth / 14, 0.55, 1.2)
    tint = light.key * 0.75 + light.sky * 0.45 + light.ground * 0.2
    return np.clip(stencil.color.astype(np.float32) / 255 * shading[..., None] * tint, 0, 1)
