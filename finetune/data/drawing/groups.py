"""How balloons come together in a picture: in a bunch, in an arch, on the floor, let go, alone.

Each function returns them from far to near. Sizes go by the picture's height: all look alike.
"""

import math
from dataclasses import dataclass

import numpy as np

from finetune.data.drawing.balloons import balloon_color
from finetune.data.drawing.canvas import Color


@dataclass(frozen=True)
class Placed:
    """Where a balloon is to be drawn; ``anchor`` is where its string ends, None for no string."""

    x: float
    y: float
    radius: float
    tilt: float
    color: Color
    anchor: tuple[float, float] | None


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
    palette = _palette(rng)
    radius = height * rng.uniform(0.045, 0.085)
    x, y = width * rng.uniform(0.35, 0.65), height * rng.uniform(0.55, 0.9)
    across, up = width * rng.uniform(0.28, 0.5), height * rng.uniform(0.3, 0.65)
    if rng.random() < 0.3:
        y, up = height * rng.uniform(0.05, 0.2), -height * rng.uniform(0.1, 0.3)  # hanging, not standing
    arc = math.pi * math.sqrt((across**2 + up**2) / 2)
    count = int(np.clip(arc / radius * rng.uniform(0.9, 1.4), 8, 45))
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
