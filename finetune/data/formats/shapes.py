"""Shapes as tools describe them: numbers, ellipses, rotations, and objects of several parts."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from finetune.data.formats.source import SourceObject
from finetune.data.masks import clean_polygon, to_mask

Point = Sequence[float] | np.ndarray


def number(value: Any, what: str = "coordinate") -> float:
    """A finite number from a file, also one written as text.

    Raises:
        ValueError: it is not one.
    """
    try:
        if isinstance(value, bool) or not np.isfinite(converted := float(value)):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(f"has the {what} {value!r}, which is not a finite number") from None
    return converted


def pairs(points: Any) -> np.ndarray:
    """Points (N, 2) from a file's list of pairs.

    Raises:
        ValueError: it is not one.
    """
    if not isinstance(points, list) or not all(isinstance(each, list) and len(each) == 2 for each in points):
        raise ValueError("has coordinates that are not numbers in pairs")
    return np.array([(number(x), number(y)) for x, y in points]).reshape(-1, 2)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """The corners (4, 2) of a rectangle."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=float)


def ellipse(center: Point, radii: Point, angle: float = 0.0) -> np.ndarray:
    """The outline (90, 2) of an ellipse, turned clockwise by ``angle`` (radians); it loses 0.08 % of the area."""
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    return turned(np.stack([radii[0] * np.cos(angles), radii[1] * np.sin(angles)], axis=1), angle) + center


def turned(points: np.ndarray, angle: float) -> np.ndarray:
    """Turn points (N, 2) about the origin, clockwise on the screen, by ``angle`` in radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def paste(part: np.ndarray, left: int, top: int, width: int, height: int) -> np.ndarray:
    """The mask (height, width) of a photo, from a smaller one (h, w) bool at this place.

    Raises:
        ValueError: the smaller one reaches out of the photo.
    """
    rows, columns = part.shape
    if min(left, top) < 0 or left + columns > width or top + rows > height:
        raise ValueError(f"has a mask of {columns} x {rows} pixels that reaches out of the photo")
    return np.pad(part, ((top, height - top - rows), (left, width - left - columns)))


def run_lengths(values: np.ndarray) -> list[int]:
    """The lengths of the runs of equal values (N,)."""
    return np.diff(np.flatnonzero(values[1:] != values[:-1]) + 1, prepend=0, append=values.size).tolist()


def join_groups(shapes: Iterable[tuple[Any, SourceObject]]) -> list[SourceObject]:
    """Join shapes of one group and class to one object.

    Args:
        shapes: each with its group, None for an object of its own. Outlines are polygons or a mask (H, W) bool.
    """
    groups: dict[Any, list[SourceObject]] = {}
    for i, (group, shape) in enumerate(shapes):
        key = i if group is None else (str(group), shape.class_name)
        groups.setdefault(key, []).append(shape)
    return [replace(parts[0], outline=partial(_joined, parts)) for parts in groups.values()]


def _joined(parts: Sequence[SourceObject], width: int, height: int) -> list[np.ndarray] | np.ndarray:
    outlines = [part.outline(width, height) for part in parts]
    if all(isinstance(outline, list) for outline in outlines):
        return [polygon for outline in outlines for polygon in outline]
    masks = []
    for outline in outlines:
        if isinstance(outline, list):
            polygons = [clean_polygon(polygon, width, height) for polygon in outline]
            outline = to_mask(polygons, width, height)
        masks.append(outline)
    return np.logical_or.reduce(masks)


def refuse(reason: str, width: int, height: int) -> Any:
    """The outline of an object that cannot be used: ``partial(refuse, "has no class")``."""
    raise ValueError(reason)
