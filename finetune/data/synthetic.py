"""A balloon data set that is drawn, not photographed: no download, exact masks, the same pictures for the same seed.

It stands in for photos in the demo and in tests; a model for real photos wants real photos.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from finetune.data import clutter, scenery
from finetune.data.balloon_art import Color, Light, Patch, balloon_color, draw_balloon, hsv
from finetune.data.layout import Instance, Photo, already_made, check_target, read_card, write_dataset
from finetune.data.masks import encode_mask
from finetune.errors import UserError

BACKGROUNDS = (
    scenery.park,
    scenery.park,
    scenery.room,
    scenery.room,
    scenery.wall,
    scenery.street,
    scenery.night,
)
EMPTY_EVERY = 15  # of the training pictures one in so many shows no balloon
MIN_VISIBLE = (
    0.12  # a balloon of which less can be seen is left out of the picture, so that none goes unlabelled
)
MIN_PIXELS = 40


@dataclass(frozen=True)
class Placed:
    """Where a balloon is to be drawn; ``anchor`` is where its string ends, None for no string."""

    x: float
    y: float
    radius: float
    tilt: float
    color: Color
    anchor: tuple[float, float] | None


def make_synthetic(
    root: Path, *, images: int = 60, seed: int = 0, size: tuple[int, int] = (640, 480), force: bool = False
) -> dict[str, Any]:
    """Draw a data set: 70 % train, 15 % val, 15 % test.

    Args:
        size: width and height in pixels.

    Returns:
        The contents of ``dataset.json``.

    Raises:
        UserError: too few pictures, a size out of bounds, or ``root`` is taken.
    """
    width, height = size
    if images < 3:
        raise UserError(f"--images {images} is too few for three splits: ask for at least 3")
    if not (64 <= width <= 4096 and 64 <= height <= 4096):
        raise UserError(f"--size {width}x{height} is out of bounds: choose 64 to 4096 pixels a side")
    source = f"drawn by `data synthetic --images {images} --seed {seed} --size {width}x{height}`"
    if not force and already_made(root, source):
        return read_card(root)
    check_target(root, force)
    held_out = max(round(images * 0.15), 1)
    counts = {"train": images - 2 * held_out, "val": held_out, "test": held_out}

    with tqdm(total=images, desc="drawing", unit="picture", leave=False) as bar:

        def draw(first: int, count: int, split: str) -> Iterator[Photo]:
            for number in range(first, first + count):
                empty = split == "train" and number % EMPTY_EVERY == EMPTY_EVERY - 1
                yield _photo(seed, number, width, height, empty)
                bar.update()

        splits, first = {}, 0
        for split, count in counts.items():
            splits[split] = draw(first, count, split)
            first += count
        return write_dataset(
            root, name="synthetic balloons", classes=["balloon"], source=source, splits=splits, force=force
        )


def _photo(seed: int, number: int, width: int, height: int, empty: bool) -> Photo:
    rgb, masks = draw_scene((seed, number), width, height, empty=empty)
    quality = int(np.random.default_rng((seed, number, 1)).integers(72, 96))
    encoded = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    return Photo(
        f"{number:05d}.jpg", encoded, width, height, [Instance(0, encode_mask(mask)) for mask in masks]
    )


def draw_scene(
    seed: int | Sequence[int], width: int, height: int, *, empty: bool = False
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw one picture with its balloons.

    Args:
        seed: the same seed draws the same picture. width, height: in pixels.
        empty: leave the balloons out.

    Returns:
        The picture, (H, W, 3) uint8 RGB, and one (H, W) bool mask per balloon: the pixels of which it covers more
        than half, occluded ones excluded, so no two masks overlap. A string belongs to no mask.
    """
    rng = np.random.default_rng(seed)
    background = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    light = scene_light(rng, dark=background is scenery.night)
    canvas = background(rng, height, width)
    hands = _clutter(canvas, rng, light)
    focus = rng.choice([0.0, 0.6, 1.5, 3.0]) * height / 480
    if focus:
        canvas = cv2.GaussianBlur(canvas, (0, 0), focus)

    front = _foreground(rng, light, height, width) if rng.random() < 0.3 else None
    visible: list[tuple[Placed, Patch, np.ndarray]] = []
    while not visible and not empty:
        visible = _place(rng, light, height, width, hands, front)
    if visible and background in (scenery.room, scenery.wall) and rng.random() < 0.7:
        _shadow(canvas, [patch for _, patch, _ in visible], light)
    _strings(canvas, rng, [(placed, patch) for placed, patch, _ in visible])
    picture = canvas.astype(np.float32) / 255
    for _, patch, _ in visible:
        lay(picture, patch.x, patch.y, patch.color, patch.alpha)
    if front:
        lay(picture, 0, 0, *front)
    return _expose(picture, rng, dark=background is scenery.night), [mask for _, _, mask in visible]


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


# --- how balloons come together; each returns them from far to near ------------------------------------------


def _palette(rng: np.random.Generator) -> list[Color]:
    return [balloon_color(rng) for _ in range(int(rng.choice([1, 2, 3, 5, 9])))]


def _pick(rng: np.random.Generator, palette: list[Color]) -> Color:
    return palette[int(rng.integers(len(palette)))]


def bunch(
    rng: np.random.Generator, height: int, width: int, hands: list[tuple[float, float]]
) -> list[Placed]:
    """Balloons on strings that meet in one point, in a hand if there is one."""
    palette, count = _palette(rng), int(rng.integers(3, 15))
    radius = height * rng.uniform(0.05, 0.14)
    spread = radius * math.sqrt(count) * rng.uniform(0.75, 1.15)
    x, y = rng.uniform(0.2, 0.8) * width, rng.uniform(0.15, 0.5) * height
    anchor = (x + rng.normal(0, 0.05) * width, min(y + spread + height * rng.uniform(0.3, 0.6), height * 1.2))
    if hands and rng.random() < 0.8:
        anchor = hands[int(rng.integers(len(hands)))]
        x, y = anchor[0] + rng.normal(0, 0.05) * width, anchor[1] - spread - height * rng.uniform(0.1, 0.25)
        y = max(y, height * 0.1)
    placed = []
    for _ in range(count):
        angle, reach = rng.uniform(0, 2 * math.pi), spread * math.sqrt(rng.random())
        bx, by = x + reach * math.cos(angle), y + reach * 0.9 * math.sin(angle)
        lean = math.atan2(bx - anchor[0], max(anchor[1] - by, radius)) * rng.uniform(0.6, 1)
        size = radius * rng.uniform(0.85, 1.15)
        placed.append(Placed(bx, by, size, lean + rng.normal(0, 0.06), _pick(rng, palette), anchor))
    return placed


def floating(
    rng: np.random.Generator, height: int, width: int, hands: list[tuple[float, float]]
) -> list[Placed]:
    """Single balloons, near and far."""
    palette = _palette(rng)
    radii = np.sort(height * np.exp(rng.uniform(math.log(0.03), math.log(0.2), int(rng.integers(1, 10)))))
    placed = []
    for radius in radii.tolist():
        x, y = rng.uniform(0, 1) * width, rng.uniform(0.02, 0.8) * height
        anchor = (
            (x + rng.normal(0, 0.5) * radius, y + radius * rng.uniform(3, 9)) if rng.random() < 0.8 else None
        )
        placed.append(Placed(x, y, radius, rng.normal(0, 0.2), _pick(rng, palette), anchor))
    return placed


def release(
    rng: np.random.Generator, height: int, width: int, hands: list[tuple[float, float]]
) -> list[Placed]:
    """Many small ones, let go."""
    palette = _palette(rng)
    x, y, count = rng.uniform(0.3, 0.7) * width, rng.uniform(0.2, 0.45) * height, int(rng.integers(8, 26))
    radii = np.sort(height * rng.uniform(0.012, 0.05, count)).tolist()
    return [
        Placed(
            x + rng.normal(0, 0.2) * width,
            y + rng.normal(0, 0.18) * height,
            radius,
            rng.normal(0, 0.3),
            _pick(rng, palette),
            None,
        )
        for radius in radii
    ]


def garland(
    rng: np.random.Generator, height: int, width: int, hands: list[tuple[float, float]]
) -> list[Placed]:
    """An arch or a swag of many balloons packed side by side."""
    palette, count = _palette(rng), int(rng.integers(12, 30))
    radius = height * rng.uniform(0.045, 0.085)
    x, y = width * rng.uniform(0.35, 0.65), height * rng.uniform(0.55, 0.9)
    across, up = width * rng.uniform(0.28, 0.5), height * rng.uniform(0.3, 0.65)
    if rng.random() < 0.3:
        y, up = height * rng.uniform(0.05, 0.2), -height * rng.uniform(0.1, 0.3)  # hanging, not standing
    placed = []
    for share in np.linspace(0, math.pi, count).tolist():
        bx = x - across * math.cos(share) + rng.normal(0, 0.45) * radius
        by = y - up * math.sin(share) + rng.normal(0, 0.45) * radius
        size = radius * rng.uniform(0.65, 1.2)
        placed.append(Placed(bx, by, size, rng.uniform(-math.pi, math.pi), _pick(rng, palette), None))
    return [placed[i] for i in rng.permutation(count)]


def lying(
    rng: np.random.Generator, height: int, width: int, hands: list[tuple[float, float]]
) -> list[Placed]:
    """Balloons on the floor, at the lower edge."""
    palette, placed = _palette(rng), []
    radius = height * rng.uniform(0.06, 0.16)
    for y in np.sort(rng.uniform(0.7, 1.02, int(rng.integers(2, 11)))).tolist():
        x, size = rng.uniform(0, 1) * width, radius * (0.5 + 0.6 * y) * rng.uniform(0.85, 1.15)
        placed.append(
            Placed(x, y * height - size * 0.6, size, rng.uniform(-2.4, 2.4), _pick(rng, palette), None)
        )
    return placed


def close(
    rng: np.random.Generator, height: int, width: int, hands: list[tuple[float, float]]
) -> list[Placed]:
    """One to three that fill the picture, some partly outside."""
    palette, placed = _palette(rng), []
    for _ in range(int(rng.integers(1, 4))):
        x, y, radius = (
            rng.uniform(0.1, 0.9) * width,
            rng.uniform(0.15, 0.75) * height,
            height * rng.uniform(0.18, 0.36),
        )
        anchor = (x + rng.normal(0, 0.3) * radius, height * 1.3) if rng.random() < 0.8 else None
        placed.append(Placed(x, y, radius, rng.normal(0, 0.2), _pick(rng, palette), anchor))
    return placed


GROUPS = (bunch, bunch, floating, floating, release, garland, lying, close)


# --- what is around them --------------------------------------------------------------------------------------


def _clutter(canvas: np.ndarray, rng: np.random.Generator, light: Light) -> list[tuple[float, float]]:
    """Put people and things into the background, in place; returns where the people's raised hands are."""
    height, width = canvas.shape[:2]
    hands, stencil = [], clutter.Stencil(height, width)
    for _ in range(int(rng.choice([0, 1, 2, 4]))):
        thing = clutter.THINGS[int(rng.integers(len(clutter.THINGS)))]
        size = height * rng.uniform(0.08, 0.25)
        thing(stencil, rng, rng.uniform(0, 1) * width, rng.uniform(0.35, 0.9) * height, size)
    if rng.random() < 0.5:
        tall = height * rng.uniform(0.35, 0.9)
        for _ in range(int(rng.integers(1, 5))):
            size = tall * rng.uniform(0.6, 1.1)
            feet = height * rng.uniform(0.85, 1.0) + max(size - height * 0.55, 0)
            hands.append(clutter.person(stencil, rng, rng.uniform(0.05, 0.95) * width, feet, size))
    if stencil.cover.any():
        shaded = clutter.emboss(stencil, light, height * 0.035)
        cover = stencil.cover.astype(np.float32)[..., None] / 255
        canvas[:] = scenery.to_canvas(shaded * cover + canvas.astype(np.float32) / 255 * (1 - cover))
    return hands


def _foreground(
    rng: np.random.Generator, light: Light, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Something near the camera that hides part of the balloons: a person, leaves in a corner, a box."""
    stencil = clutter.Stencil(height, width)
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
    return clutter.emboss(stencil, light, height * 0.05), stencil.cover.astype(np.float32) / 255


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
    color = scenery.bgr8(hsv(rng.random(), rng.choice([0, 0, 0.5]), rng.uniform(0.3, 1)))
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
    """Take the photo: uneven light, lens and motion blur, white balance, noise, contrast; float32 → uint8."""
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
    return cv2.LUT(scenery.to_canvas(picture), scenery.to_canvas(table))
