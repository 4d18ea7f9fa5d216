"""The options of a prediction: one table that validates requests and documents them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from handler.api.errors import BadRequest, quoted
from handler.model import MAX_DETECTIONS, MAX_INSTANCES, Wanted

MASK_FORMATS = ("rle", "polygon", "png", "none")
OUTPUTS = ("json", "coco", "overlay", "splash", "labels")
IMAGE_OUTPUTS = ("overlay", "splash", "labels")
"""The outputs that are a PNG."""
TILE_SIDES = (128, 4096)


@dataclass(frozen=True)
class Options:
    """The validated options of one request."""

    score_threshold: float = 0.5
    class_thresholds: Mapping[int, float] = field(default_factory=dict)
    """Class id → its own threshold, of the archive's operating point; a request's ``score_threshold`` replaces it."""
    suppression_iou: float | None = None
    """Of boxes that overlap more than this, whatever their classes, the best is kept. Only the archive sets it."""
    max_detections: int = 100
    classes: frozenset[int] | None = None
    """0-based class ids to keep; None keeps all."""
    mask_format: str = "rle"
    output: str = "json"
    tiles: int = 0

    @property
    def compact(self) -> bool:
        """Whether the answer stays small beside a photo of any size: no picture is in it."""
        return self.output not in IMAGE_OUTPUTS and self.mask_format != "png"

    @property
    def wanted(self) -> Wanted:
        """What the answer needs. JSON has each mask's area, even without the mask; COCO results do not."""
        masks = (self.output, self.mask_format) != ("coco", "none")
        lowest = min([self.score_threshold, *self.class_thresholds.values()])
        # both select among all instances, so none may be dropped before
        if self.class_thresholds or self.suppression_iou is not None:
            return Wanted(lowest, MAX_DETECTIONS, None, masks, self.tiles)
        return Wanted(lowest, self.max_detections, self.classes, masks, self.tiles)


@dataclass(frozen=True)
class Option:
    """One row of the table. ``parse(name, value, classes)`` gives the value or raises BadRequest."""

    name: str
    values: str
    default: object
    meaning: str
    parse: Callable[[str, object, Sequence[str]], object]


_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


def _number(value: object) -> float | int:
    """A finite number from a JSON number or a form field's text; no booleans, no ``nan``, no ``1_000``; else NaN."""
    if isinstance(value, FormText):
        text = value.strip()
        if len(text) <= 40 and _NUMBER.fullmatch(text):
            return float(text) if set(text) & set(".eE") else int(text)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return math.nan


def _invalid(name: str, wanted: str, value: object) -> BadRequest:
    return BadRequest("invalid_option", f"{name} must be {wanted}, not {quoted(value)}.", name)


def _score_threshold(name: str, value: object, classes: Sequence[str]) -> float:
    number = _number(value)
    if not 0 <= number <= 1:
        raise _invalid(name, "a number from 0 to 1", value)
    return float(number)


def _max_detections(name: str, value: object, classes: Sequence[str]) -> int:
    number = _number(value)
    if not 1 <= number <= MAX_INSTANCES or number != int(number):
        raise _invalid(name, f"a whole number from 1 to {MAX_INSTANCES}", value)
    return int(number)


def _tiles(name: str, value: object, classes: Sequence[str]) -> int:
    number, (least, most) = _number(value), TILE_SIDES
    if number != 0 and (not least <= number <= most or number != int(number)):
        raise _invalid(name, f"0 or a whole number from {least} to {most}", value)
    return int(number)


def _choice(choices: tuple[str, ...]) -> Callable[[str, object, Sequence[str]], str]:
    def parse(name: str, value: object, classes: Sequence[str]) -> str:
        if not isinstance(value, str) or value not in choices:
            raise _invalid(name, f"one of {', '.join(choices)}", value)
        return str(value)

    return parse


def _classes(name: str, value: object, classes: Sequence[str]) -> frozenset[int] | None:
    """Class names or 0-based ids, comma separated or as a list; ``all`` keeps all. A name wins over an id."""
    if isinstance(value, str) and value.strip() == "all" and "all" not in classes:
        return None
    wanted = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    if not wanted:
        raise BadRequest("invalid_option", f"{name} must name at least one class.", name)
    return frozenset(_class_id(name, item, classes) for item in wanted)


def _class_id(name: str, item: object, classes: Sequence[str]) -> int:
    if isinstance(item, str):
        text = str(item) if item in classes else item.strip()
        if text in classes:
            return list(classes).index(text)
        if re.fullmatch(r"\d{1,9}", text, re.ASCII):
            item = int(text)
    if isinstance(item, float) and item.is_integer():  # JSON has one kind of number: 1.0 is 1
        item = int(item)
    if isinstance(item, int) and not isinstance(item, bool) and 0 <= item < len(classes):
        return item
    known = ", ".join(classes[:20]) + (", …" if len(classes) > 20 else "")
    raise BadRequest(
        "unknown_class",
        f"{name} has {quoted(item)}, which is not a class of this model; its classes are {known} "
        f"(or the ids 0 to {len(classes) - 1}).",
        name,
    )


OPTIONS: tuple[Option, ...] = (
    Option(
        "score_threshold",
        "0..1",
        "the archive's operating point, else 0.5",
        "Keep instances whose score is at least this.",
        _score_threshold,
    ),
    Option(
        "max_detections",
        f"1..{MAX_INSTANCES}",
        100,
        "Keep at most this many, the best first.",
        _max_detections,
    ),
    Option("classes", "names or ids, comma separated or a list", "all", "Keep only these classes.", _classes),
    Option("mask_format", " · ".join(MASK_FORMATS), "rle", "How a mask is written.", _choice(MASK_FORMATS)),
    Option("output", " · ".join(OUTPUTS), "json", "What to answer.", _choice(OUTPUTS)),
    Option(
        "tiles",
        f"0 or {TILE_SIDES[0]}..{TILE_SIDES[1]}",
        0,
        "Look at the photo in overlapping tiles of this side in pixels, too, which finds small objects; 0: do not.",
        _tiles,
    ),
)
OPTION_NAMES = tuple(option.name for option in OPTIONS)


class FormText(str):
    """The text of a form field. It may hold a number, which a string in JSON may not."""


def parse_options(
    given: Mapping[str, object], classes: Sequence[str], defaults: Options | None = None
) -> Options:
    """Validate the options that a request names and take the others from ``defaults``.

    Args:
        given: option name → JSON value, or :class:`FormText` from a form field.
        classes: the model's class names, in the order of their ids.

    Raises:
        BadRequest: an unknown option, or a value out of its range; ``field`` names it.
    """
    for name in given:
        if name not in OPTION_NAMES:
            raise BadRequest(
                "unknown_option",
                f"There is no option {quoted(name)}; the options are {', '.join(OPTION_NAMES)}.",
                quoted(name)[1:-1],
            )
    values: dict[str, Any] = {
        option.name: option.parse(option.name, given[option.name], classes)
        for option in OPTIONS
        if option.name in given
    }
    if "score_threshold" in values:
        values["class_thresholds"] = {}
    options = replace(defaults or Options(), **values)
    if options.tiles and options.max_detections == Options.max_detections and "max_detections" not in values:
        options = replace(options, max_detections=MAX_INSTANCES)
    if options.output == "coco" and options.mask_format == "png":
        raise BadRequest(
            "invalid_option",
            "COCO results have no mask_format png; use rle, polygon or none.",
            "mask_format",
        )
    return options
