"""The ``handler:`` section of ``model-config.yaml``: everything an operator can set, with its default.

This is also the one place for the limits on a request; a client reads them from the model's description
(``GET /models/maskrcnn?customized=true``). A key that is absent takes its default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from handler.api.errors import RequestError
from handler.api.options import Options, parse_options
from handler.errors import SettingsError

MAX_PIXELS = 2**27
"""No setting allows more: a decoded image takes up to seven bytes a pixel."""


def _setting(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Settings:
    """One attribute per key of the section."""

    precision: str = _setting(
        "auto", "`auto`, `fp32`, `bf16`, `fp16` or `int8`: the number format of the network"
    )
    engine: str = _setting("auto", "`auto`, `torch` or `openvino`: what runs the network's convolutions")
    cuda_graphs: bool = _setting(False, "replay the network's layers as CUDA graphs; on a GPU, not measured")
    threads: int | None = _setting(None, "cores of one worker; null divides the cores among the workers")
    max_image_bytes: int = _setting(
        20 * 2**20, "larger files get 413; TorchServe's max_request_size must hold 4/3 of it, for base64"
    )
    max_image_pixels: int = _setting(25_000_000, "larger images get 422, before they are decoded")
    max_tiled_bytes: int = _setting(64 * 2**20, "the same for a request with `tiles`")
    max_tiled_pixels: int = _setting(
        100_000_000, "the same for a request with `tiles`, unless it asks for an `output` or masks in PNG"
    )
    max_tiles: int = _setting(200, "a request for more tiles gets 422; each takes the time of a photo")
    max_response_bytes: int = _setting(
        60 * 2**20, "longer answers become 422; must be below TorchServe's max_response_size"
    )
    half_size_jpegs: bool = _setting(
        True,
        "decode a JPEG at half its size, in half the time, where that is still larger than the network's input and the "
        "answer is not a picture",
    )
    warmup: tuple[tuple[int, int], ...] = _setting(
        ((768, 1024),), "[height, width] of the images to predict once while loading"
    )
    options: Options = field(
        default_factory=Options,
        metadata={"meaning": "defaults for a request's options, such as {score_threshold: 0.7}"},
    )

    @property
    def limits(self) -> dict[str, int]:
        """The limits on a request, by name."""
        return {name: getattr(self, name) for name in _LIMITS}

    def limits_of(self, options: Options) -> tuple[int, int]:
        """The most bytes and the most pixels of an image in a request with ``options``."""
        if options.tiles and options.compact:
            return self.max_tiled_bytes, self.max_tiled_pixels
        return self.max_image_bytes, self.max_image_pixels


_LIMITS = tuple(f.name for f in fields(Settings) if f.name.startswith("max_"))


def parse_settings(
    section: Mapping[str, Any] | None,
    classes: Sequence[str],
    operating_point: Mapping[str, Any] | None = None,
) -> Settings:
    """Check the section and fill in the defaults.

    Args:
        section: the ``handler`` section; None when there is none.
        classes: the model's class names, for ``options``.
        operating_point: of the archive's card; the defaults of ``options``.

    Raises:
        SettingsError: an unknown key or a wrong value; the model is then not loaded.
    """
    given = dict(section or {})
    if unknown := sorted(set(given) - {f.name for f in fields(Settings)}):
        raise _error(f"the handler section has no key {', '.join(map(str, unknown))}")
    for name in (*_LIMITS, "threads"):
        if name in given and not (_is_count(given[name]) or (name == "threads" and given[name] is None)):
            raise _error(f"handler.{name} must be a whole number above 0")
    for name in ("max_image_pixels", "max_tiled_pixels"):
        if given.get(name, 1) > MAX_PIXELS:
            raise _error(f"handler.{name} can be at most {MAX_PIXELS:,}")
    for name in ("cuda_graphs", "half_size_jpegs"):
        if not isinstance(given.get(name, True), bool):
            raise _error(f"handler.{name} must be true or false")
    if "warmup" in given:
        given["warmup"] = _sizes(given["warmup"])
    try:
        given["options"] = parse_options(
            given.get("options") or {}, classes, _defaults(operating_point, classes)
        )
    except RequestError as error:
        raise _error(f"handler.options: {error.message.rstrip('.')}") from None
    return Settings(**given)


def _defaults(point: Mapping[str, Any] | None, classes: Sequence[str]) -> Options:
    """Default options from the operating point in ``archive.json``."""
    if point is None:
        return Options()
    try:
        per_class = {classes.index(name): float(score) for name, score in point["per_class"].items()}
        return Options(float(point["score_threshold"]), per_class, point["suppression_iou"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(
            f"the operating point in archive.json cannot be read ({error!r}): export it again"
        ) from None


def _sizes(value: object) -> tuple[tuple[int, int], ...]:
    sizes = value or []
    if not isinstance(sizes, list) or not all(
        isinstance(size, list) and len(size) == 2 and all(map(_is_count, size)) for size in sizes
    ):
        raise _error("handler.warmup must be a list of [height, width]")
    return tuple((height, width) for height, width in sizes)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _error(message: str) -> SettingsError:
    return SettingsError(f"model-config.yaml: {message}")
