"""Compose a picture: background, clutter, groups of balloons, something in front, and the photo of it."""

from collections.abc import Sequence

import cv2
import numpy as np

from finetune.data.drawing import clutter, indoors, outdoors
from finetune.data.drawing.balloons import Patch, draw_balloon
from finetune.data.drawing.canvas import Light, Stencil, bgr8, emboss, hsv, lay, overlap, to_canvas
from finetune.data.drawing.groups import GROUPS, Placed

BACKGROUNDS = (
    outdoors.park,
    outdoors.park,
    indoors.room,
    indoors.room,
    indoors.wall,
    outdoors.street,
    outdoors.night,
)
MIN_VISIBLE = (
    0.12  # a balloon of which less can be seen is left out of the picture, so that none goes unlabelled
)
MIN_PIXELS = 40


def draw_scene(
    seed: int | Sequence[int], width: int, height: int, *, empty: bool = False
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw one picture with its balloons.

    Args:
        seed: the same seed draws the same picture. width, height: in pixels.
        empty: leave the balloons out.

    Returns:
        The picture, (H, W, 3) uint8 RGB, and one (H, W) bool mask per balloon: the pixels of which it covers
        more than half, occluded ones excluded, so no two masks overlap. A string belongs to no mask.
    """
    rng = np.random.default_rng(seed)
    background = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    light = scene_light(rng, dark=background is outdoors.night)
    canvas = background(rng, height, width)
    hands = _clutter(canvas, rng, light)
    focus = rng.choice([0.0, 0.6, 1.5, 3.0]) * height / 480
    if focus:
        canvas = cv2.GaussianBlur(canvas, (0, 0), focus)

    front = _foreground(rng, light, height, width) if rng.random() < 0.3 else None
    visible: list[tuple[Placed, Patch, np.ndarray]] = []
    while not visible and not empty:
        visible = _place(rng, light, height, width, hands, front)
    if visible and background in (indoors.room, indoors.wall) and rng.random() < 0.7:
        _shadow(canvas, [patch for _, patch, _ in visible], light)
    _strings(canvas, rng, [(placed, patch) for placed, patch, _ in visible])
    picture = canvas.astype(np.float32) / 255
    for _, patch, _ in visible:
        lay(picture, patch.x, patch.y, patch.color, patch.alpha)
    if front:
        lay(picture, 0, 0, *front)
    return _expose(picture, rng, dark=background is outdoors.night), [mask for _, _, mask in visible]


def scene_light(rng: np.random.Generator, *, dark: bool) -> Light:
    """Where the light comes from, and its colours."""
    direction = np.array([rng.uniform(-0.8, 0.8), rng.uniform(-0.9, -0.15), rng.uniform(0.35, 0.9)])
    warmth = rng.uniform(-0.06, 0.08)
    tint = np.array([1 + warmth, 1, 1 - warmth], dtype=np.float32)
    level = rng.uniform(0.3, 0.5) if dark else rng.uniform(0.6, 0.85)
    soft = rng.uniform(0.25, 0.5) * (0.7 if dark else 1)
    return Light(
        direction / np.linalg.norm(direction),
        (level * tint).astype(np.float32),
        (soft * (2 - tint)).astype(np.float32),
        rng.uniform(0.1, 0.3) * hsv(rng.random(), 0.2, 1),
    )


def _place(
    rng: np.random.Generator,
    light: Light,
    height: int,
    width: int,
    hands: list[tuple[float, float]],
    front: tuple[np.ndarray, np.ndarray] | None,
) -> list[tuple[Placed, Patch, np.ndarray]]:
    """Choose and draw the balloons, far ones first, each with the mask of its visible pixels."""
    group = GROUPS[int(rng.integers(len(GROUPS)))]
    free = np.ones((height, width), dtype=np.float32)  # the share of each pixel that nothing nearer covers
    if front:
        free -= front[1]
    visible = []
    for placed in reversed(group(rng, height, width, hands)):  # from near to far
        patch = draw_balloon(rng, (placed.x, placed.y), placed.radius, placed.tilt, light, placed.color)
        rows, columns, inner = overlap(free.shape, patch.x, patch.y, patch.cover.shape)
        seen = free[rows, columns] * patch.cover[inner] > 0.5
        if np.count_nonzero(seen) < max(MIN_PIXELS, MIN_VISIBLE * float(patch.cover.sum())):
            continue
        mask = np.zeros((height, width), dtype=bool)
        mask[rows, columns] = seen
        free[rows, columns] *= 1 - patch.cover[inner]
        visible.append((placed, patch, mask))
    return visible[::-1]


# --- what is around them ------------------------------------------------------------------------------------


def _clutter(canvas: np.ndarray, rng: np.random.Generator, light: Light) -> list[tuple[float, float]]:
    """Put people and things into the background, in place; returns where the people's raised hands are."""
    height, width = canvas.shape[:2]
    hands, stencil = [], Stencil(height, width)
    for _ in range(int(rng.choice([0, 1, 2, 4]))):
        thing = clutter.THINGS[int(rng.integers(len(clutter.THINGS)))]
        size = height * rng.uniform(0.08, 0.25)
        thing(stencil, rng, rng.uniform(0, 1) * width, rng.uniform(0.6, 0.92) * height, size)
    if rng.random() < 0.5:
        tall = height * rng.uniform(0.35, 0.9)
        for _ in range(int(rng.integers(1, 5))):
            size = tall * rng.uniform(0.6, 1.1)
            feet = height * rng.uniform(0.85, 1.0) + max(size - height * 0.55, 0)
            hands.append(clutter.person(stencil, rng, rng.uniform(0.05, 0.95) * width, feet, size))
    if stencil.cover.any():
        shaded = emboss(stencil, light, height * 0.035)
        cover = stencil.cover.astype(np.float32)[..., None] / 255
        canvas[:] = to_canvas(shaded * cover + canvas.astype(np.float32) / 255 * (1 - cover))
    return hands


def _foreground(
    rng: np.random.Generator, light: Light, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Something near the camera that hides part of the balloons: a person, leaves in a corner, a box."""
    stencil = Stencil(height, width)
    kind = rng.random()
    if kind < 0.4:
        clutter.person(
            stencil, rng, rng.uniform(0.1, 0.9) * width, height * rng.uniform(1.3, 1.6), height * 1.1
        )
    elif kind < 0.75:
        x, y = rng.choice([-0.02, 1.02]) * width, rng.uniform(0, 1) * height
        clutter.leaves(stencil, rng, x, y, height * rng.uniform(0.25, 0.5))
    else:
        clutter.box(stencil, rng, rng.uniform(0, 0.8) * width, height * rng.uniform(0.75, 0.9), height * 0.3)
    return emboss(stencil, light, height * 0.05), stencil.cover.astype(np.float32) / 255


def _shadow(canvas: np.ndarray, patches: list[Patch], light: Light) -> None:
    """The soft shadow of the balloons on a wall behind them, in place."""
    height, width = canvas.shape[:2]
    cover = np.zeros((height, width), dtype=np.float32)
    for patch in patches:
        rows, columns, inner = overlap(cover.shape, patch.x, patch.y, patch.cover.shape)
        np.maximum(cover[rows, columns], patch.cover[inner], out=cover[rows, columns])
    away = height * 0.06 / float(light.direction[2])
    shift = np.array(
        [[1, 0, -away * light.direction[0]], [0, 1, -away * light.direction[1]]], dtype=np.float32
    )
    cover = cv2.warpAffine(cover, shift, (width, height), borderMode=cv2.BORDER_REPLICATE)
    small = cv2.resize(cover, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    soft = cv2.resize(cv2.GaussianBlur(small, (0, 0), height / 160), (width, height))
    canvas[:] = (canvas * (1 - 0.4 * soft)[..., None]).astype(np.uint8)


def _strings(canvas: np.ndarray, rng: np.random.Generator, balloons: list[tuple[Placed, Patch]]) -> None:
    """Draw the strings, behind all balloons, in place: slightly slack curves, or curled ribbons."""
    color = bgr8(hsv(rng.random(), rng.choice([0, 0, 0.5]), rng.uniform(0.3, 1)))
    share = np.linspace(0, 1, 24)
    for placed, patch in balloons:
        if placed.anchor is None:
            continue
        (x0, y0), (x1, y1) = patch.knot, placed.anchor
        slack = rng.normal(0, 0.12) * abs(y1 - y0)
        curl = placed.radius * rng.choice([0, 0, 0.1])
        x = x0 + (x1 - x0) * share + slack * share * (1 - share) + curl * np.sin(share * 30) * share
        y = y0 + (y1 - y0) * share
        points = np.round(np.stack([x, y], axis=1) * 16).astype(np.int32)
        thickness = max(round(placed.radius / 45), 1)
        cv2.polylines(canvas, [points], False, color, thickness, cv2.LINE_AA, 4)


def _expose(picture: np.ndarray, rng: np.random.Generator, *, dark: bool) -> np.ndarray:
    """Take the photo: uneven light, blur, white balance, grain, contrast; float32 → uint8."""
    height, width = picture.shape[:2]
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    slope_x, slope_y = rng.uniform(-0.18, 0.18, 2).tolist()
    falloff = 1 + slope_x * x + slope_y * y - rng.uniform(0, 0.18) * (x * x + y * y)
    balance = np.array([1 + rng.normal(0, 0.04), 1, 1 + rng.normal(0, 0.04)], dtype=np.float32)
    picture = picture * (falloff[..., None] * (balance * rng.uniform(0.85, 1.12)))
    kind = rng.random()
    if kind < 0.4:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.1) * height / 480)
    elif kind < 0.5:
        length = max(int(height / 480 * rng.integers(3, 7)), 2)
        kernel = np.eye(length) if rng.random() < 0.5 else np.eye(1, length, 0) * 0 + 1
        picture = cv2.filter2D(picture, -1, kernel / kernel.sum())
    grain = rng.uniform(0.015, 0.045) if dark else rng.uniform(0.002, 0.022)
    picture = picture + grain * rng.standard_normal((height, width, 1), dtype=np.float32)
    picture[..., ::2] += grain * 0.6 * rng.standard_normal((height, width, 2), dtype=np.float32)
    contrast = rng.uniform(0.0, 0.35)  # an S curve, as cameras have it
    table = np.linspace(0, 1, 256)
    table = table + contrast * (table * table * (3 - 2 * table) - table)
    return cv2.LUT(to_canvas(picture), to_canvas(table))
