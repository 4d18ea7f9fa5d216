"""Draw things that are no balloons: people, boxes, discs, lamps, flags, leaves.

Each is drawn flat on a canvas of its own, then given volume by ``emboss`` and laid over the picture.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np

from finetune.data.drawing.canvas import Stencil, bgr8, hsv
from finetune.data.drawing.outdoors import foliage


def person(
    stencil: Stencil, rng: np.random.Generator, x: float, feet: float, size: float
) -> tuple[float, float]:
    """A person seen from the front, ``size`` pixels tall, one arm raised; returns where that hand is."""
    skin = hsv(rng.uniform(0.04, 0.09), rng.uniform(0.3, 0.6), rng.uniform(0.35, 0.95))
    shirt = hsv(rng.random(), rng.uniform(0, 0.85), rng.uniform(0.15, 0.95))
    trousers = hsv(rng.uniform(0.55, 0.7), rng.uniform(0, 0.6), rng.uniform(0.12, 0.6))
    hair = hsv(rng.uniform(0.03, 0.12), rng.uniform(0.2, 0.7), rng.uniform(0.06, 0.6))
    head, hip, shoulder = feet - size * 0.91, feet - size * 0.47, feet - size * 0.8
    half = size * rng.uniform(0.1, 0.13)
    side = float(rng.choice([-1, 1]))
    for leg in (-1, 1):
        foot = x + leg * half * rng.uniform(0.5, 0.9)
        stencil.limb([(x + leg * half * 0.5, hip), (foot, feet - size * 0.02)], size * 0.085, trousers)
        stencil.ellipse(foot + leg * size * 0.01, feet - size * 0.015, size * 0.045, size * 0.02, hair * 0.6)
    if rng.random() < 0.4:  # a skirt
        stencil.polygon(
            [
                (x - half * 0.7, hip - size * 0.1),
                (x + half * 0.7, hip - size * 0.1),
                (x + half * 1.6, feet - size * 0.25),
                (x - half * 1.6, feet - size * 0.25),
            ],
            trousers,
        )
    torso = [(-1, 0), (-0.45, -0.03), (0.45, -0.03), (1, 0), (0.8, 0.36), (-0.8, 0.36)]
    stencil.polygon([(x + a * half, shoulder + b * size) for a, b in torso], shirt)
    elbow = (x - side * half * 1.5, shoulder + size * 0.17)
    stencil.limb(
        [(x - side * half * 0.85, shoulder + size * 0.04), elbow, (elbow[0] + side * size * 0.03, hip)],
        size * 0.06,
        shirt,
    )
    hand = (x + side * size * rng.uniform(0.2, 0.3), shoulder - size * rng.uniform(-0.1, 0.12))
    elbow = (x + side * half * 1.7, shoulder + size * rng.uniform(0.08, 0.16))
    stencil.limb([(x + side * half * 0.85, shoulder + size * 0.04), elbow], size * 0.062, shirt)
    stencil.limb([elbow, hand], size * 0.045, skin)
    stencil.ellipse(*hand, size * 0.028, size * 0.032, skin)
    if rng.random() < 0.5:  # long hair, behind the neck
        stencil.ellipse(x, head + size * 0.015, size * 0.07, size * 0.095, hair)
    stencil.limb([(x, shoulder + size * 0.01), (x, head)], size * 0.06, skin * 0.9)
    stencil.ellipse(x, head, size * 0.052, size * 0.07, skin)
    cap = [
        (x - size * 0.06, head),
        (x - size * 0.055, head - size * 0.06),
        (x, head - size * 0.088),
        (x + size * 0.055, head - size * 0.06),
        (x + size * 0.06, head),
        (x, head - size * 0.04),
    ]
    stencil.polygon(cap, hair)
    for eye in (-1, 1):
        stencil.ellipse(x + eye * size * 0.02, head - size * 0.005, size * 0.006, size * 0.006, skin * 0.2)
    stencil.limb(
        [(x - size * 0.018, head + size * 0.03), (x + size * 0.018, head + size * 0.03)],
        size * 0.008,
        hsv(0, 0.5, 0.5),
    )
    return hand


def box(stencil: Stencil, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    """A carton or a present with a ribbon, three faces seen."""
    tone = hsv(rng.random(), rng.uniform(0.1, 0.9), rng.uniform(0.4, 0.95))
    w, h, d = size * rng.uniform(0.7, 1.4), size * rng.uniform(0.5, 1.2), size * rng.uniform(0.2, 0.5)
    stencil.polygon([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], tone)
    stencil.polygon(
        [(x, y), (x + d, y - d * 0.6), (x + w + d, y - d * 0.6), (x + w, y)], np.minimum(tone * 1.2, 1)
    )
    stencil.polygon(
        [(x + w, y), (x + w + d, y - d * 0.6), (x + w + d, y + h - d * 0.6), (x + w, y + h)], tone * 0.65
    )
    if rng.random() < 0.6:
        ribbon = hsv(rng.random(), 0.6, 0.9)
        stencil.polygon(
            [(x + w * 0.42, y), (x + w * 0.58, y), (x + w * 0.58, y + h), (x + w * 0.42, y + h)], ribbon
        )
        for bow in (-1, 1):
            stencil.ellipse(
                x + w * 0.5 + d * 0.3 + bow * size * 0.13,
                y - d * 0.45,
                size * 0.14,
                size * 0.07,
                ribbon,
                bow * 20,
            )


def disc(stencil: Stencil, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    """A flat round thing: a plate, a sign, a clock."""
    tone, ring = (
        hsv(rng.random(), rng.uniform(0, 0.9), rng.uniform(0.3, 0.98)),
        hsv(rng.random(), rng.uniform(0, 0.9), rng.uniform(0.2, 1)),
    )
    squash = rng.uniform(0.75, 1)
    stencil.ellipse(x, y, size * 0.5, size * 0.5 * squash, ring)
    stencil.ellipse(x, y, size * 0.42, size * 0.42 * squash, tone)
    if rng.random() < 0.5:
        for angle in rng.uniform(0, 2 * math.pi, 2):
            end = (x + math.cos(angle) * size * 0.33, y + math.sin(angle) * size * 0.33 * squash)
            stencil.limb([(x, y), end], size * 0.04, ring * 0.4)


def ball(stencil: Stencil, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    """A ball or a fruit: round and shaded but matt, with seams or a stalk."""
    tone = hsv(rng.choice([0.02, 0.07, 0.1, 0.25, 0.0]), rng.uniform(0.1, 0.85), rng.uniform(0.5, 0.95))
    r = size * 0.3
    stencil.ellipse(x, y, r, r, tone)
    for angle in rng.uniform(0, 180, int(rng.integers(1, 4))):
        cv2.ellipse(
            stencil.color,
            (int(x), int(y)),
            (int(r), max(int(r * 0.35), 1)),
            float(angle),
            0,
            180,
            bgr8(tone * 0.35),
            max(int(r * 0.06), 1),
            cv2.LINE_AA,
        )


def lamp(stencil: Stencil, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    """A lamp with a shade on a stand, or hanging from a cord."""
    glow = hsv(rng.uniform(0.08, 0.14), rng.uniform(0.1, 0.5), 1.0)
    metal = hsv(0.1, rng.uniform(0, 0.5), rng.uniform(0.1, 0.5))
    if rng.random() < 0.5:
        stencil.limb([(x, y - size * 3), (x, y - size * 0.4)], size * 0.04, metal)
    else:
        stencil.limb([(x, y), (x, y + size * 1.2)], size * 0.07, metal)
        stencil.ellipse(x, y + size * 1.2, size * 0.3, size * 0.07, metal)
    stencil.polygon(
        [
            (x - size * 0.25, y - size * 0.4),
            (x + size * 0.25, y - size * 0.4),
            (x + size * 0.45, y + size * 0.3),
            (x - size * 0.45, y + size * 0.3),
        ],
        glow,
    )


def flags(stencil: Stencil, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    """A line of bunting across the picture."""
    height, width = stencil.cover.shape
    sag, top = height * rng.uniform(0.03, 0.15), y * rng.uniform(0.1, 0.6)
    step = size * rng.uniform(0.3, 0.6)
    places = [(left, top + sag * math.sin(math.pi * left / width)) for left in np.arange(0, width, step)]
    stencil.limb([(float(a), float(b)) for a, b in places], 1, hsv(0, 0, 0.85))
    for left, up in places:
        tone = hsv(rng.random(), rng.uniform(0.3, 0.9), rng.uniform(0.5, 0.95))
        stencil.polygon([(left, up), (left + step * 0.8, up), (left + step * 0.4, up + step)], tone)


def leaves(stencil: Stencil, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    """A bush, or a plant in a pot."""
    leaf = hsv(rng.uniform(0.2, 0.42), rng.uniform(0.4, 0.85), rng.uniform(0.25, 0.7))
    if rng.random() < 0.5:
        pot = hsv(rng.uniform(0.02, 0.1), rng.uniform(0.1, 0.7), rng.uniform(0.3, 0.8))
        stencil.polygon(
            [
                (x - size * 0.3, y + size * 0.3),
                (x + size * 0.3, y + size * 0.3),
                (x + size * 0.22, y + size * 0.9),
                (x - size * 0.22, y + size * 0.9),
            ],
            pot,
        )
        for angle in rng.uniform(-2.7, -0.4, int(rng.integers(7, 16))):
            reach = size * rng.uniform(0.5, 1)
            middle = (x + math.cos(angle) * reach * 0.5, y + size * 0.3 + math.sin(angle) * reach * 0.6)
            stencil.ellipse(
                *middle, reach * 0.5, reach * 0.12, leaf * rng.uniform(0.7, 1.2), math.degrees(angle)
            )
        return
    before = stencil.color.copy()
    foliage(stencil.color, rng, x, y, size * 0.6, leaf)
    stencil.cover[np.any(stencil.color != before, axis=2)] = 255


THINGS: tuple[Callable[[Stencil, np.random.Generator, float, float, float], None], ...] = (
    box,
    disc,
    ball,
    lamp,
    flags,
    leaves,
)
