"""The ``handler:`` section of an archive's ``model-config.yaml``: everything an operator may set.

::

    handler:
      precision: auto             # auto | fp32 | bf16 | fp16 | int8: see handler.model.predictor
      engine: auto                # auto | torch | openvino
      threads: null               # of one worker; null shares the cores among the workers
      max_image_bytes: 20971520   # 413 above; the server's max_request_size must hold 4/3 of it, for base64
      max_image_pixels: 25000000  # 422 above, judged from the header
      max_response_bytes: 62914560  # 422 above; must be below the server's max_response_size
      warmup: [[768, 1024]]       # heights and widths to run once at load
      options: {}                 # other defaults for a request's options, such as score_threshold: 0.7
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from handler.api.errors import RequestError
from handler.api.options import Options, parse_options

PILLOW_MAX_PIXELS = 89_478_485
"""Pillow warns of a bomb above this many pixels, and we take its warning for an error."""


@dataclass(frozen=True)
class Settings:
    """One attribute per key of the section above, with its default."""

    precision: str = "auto"
    engine: str = "auto"
    threads: int | None = None
    max_image_bytes: int = 20 * 2**20
    max_image_pixels: int = 25_000_000
    max_response_bytes: int = 60 * 2**20
    warmup: tuple[tuple[int, int], ...] = ((768, 1024),)
    options: Options = field(default_factory=Options)


def parse_settings(section: Mapping[str, Any] | None, classes: Sequence[str]) -> Settings:
    """Check the section and fill in the defaults.

    Raises:
        ValueError: an unknown key or a value of the wrong kind, named in one sentence; loading the model
        fails by it.
    """
    given = dict(section or {})
    unknown = sorted(set(given) - {f.name for f in fields(Settings)})
    if unknown:
        raise ValueError(f"model-config.yaml: the handler section has no key {', '.join(map(str, unknown))}.")
    for name in ("max_image_bytes", "max_image_pixels", "max_response_bytes", "threads"):
        if given.get(name) is not None and not _is_count(given[name]):
            raise ValueError(f"model-config.yaml: handler.{name} must be a whole number above 0.")
        if name != "threads" and given.get(name, 1) is None:
            raise ValueError(f"model-config.yaml: handler.{name} must be a whole number above 0.")
    if given.get("max_image_pixels", 1) > PILLOW_MAX_PIXELS:
        raise ValueError(f"model-config.yaml: handler.max_image_pixels may be {PILLOW_MAX_PIXELS:,} at most.")
    if "warmup" in given:
        sizes = given["warmup"] or []
        if not isinstance(sizes, list) or not all(
            isinstance(size, list) and len(size) == 2 and all(map(_is_count, size)) for size in sizes
        ):
            raise ValueError("model-config.yaml: handler.warmup must be a list of [height, width].")
        given["warmup"] = tuple((height, width) for height, width in sizes)
    try:
        given["options"] = parse_options(given.get("options") or {}, classes)
    except RequestError as error:
        raise ValueError(f"model-config.yaml: handler.api.options: {error.message}") from None
    return Settings(**given)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
