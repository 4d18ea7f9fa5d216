"""One request of the corpus, and the small pictures that most of them are made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.handler.awkward import save


@dataclass(frozen=True)
class Case:
    """One request. Without ``content_type`` the body is a picture's file, for every way of sending one."""

    name: str
    body: bytes
    content_type: str | None = None
    filename: str = "picture"
    headers: tuple[tuple[str, str], ...] = ()


def drawing() -> Image.Image:
    """A 64 × 48 picture of smooth color gradients."""
    y, x = np.mgrid[:48, :64]
    return Image.fromarray(np.stack([4 * x, 5 * y, 128 + 100 * np.sin(x * y / 99)], axis=2).astype(np.uint8))


def files() -> dict[str, bytes]:
    """A small picture in every format that is accepted."""
    image = drawing()
    formats = {kind: save(image, kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")}
    return formats | {
        "progressive": save(image, "JPEG", progressive=True),
        "lossless": save(image, "WEBP", lossless=True),
        "lzw": save(image, "TIFF", compression="tiff_lzw"),
    }
