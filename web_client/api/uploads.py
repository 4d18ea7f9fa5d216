"""Uploaded pictures: kept in memory, and checked before they are sent on."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import PurePath

from flask import Request, current_app, request
from PIL import Image

from web_client.errors import ApiError, too_many_bytes

# The formats that the model decodes; the list keeps Pillow's rarer, less tested readers out of reach.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
Image.MAX_IMAGE_PIXELS = None  # check_picture has limits of its own
MAX_PICTURES = 8  # in one request; together they may be as large as one


class MemoryRequest(Request):
    """A request whose files stay in memory; Werkzeug writes those above 500 kB to a temporary file."""

    def _get_file_stream(self, *args: object, **kwargs: object) -> io.BytesIO:
        return io.BytesIO()


@dataclass(frozen=True)
class Picture:
    """An uploaded picture, unchanged; ``media_type`` is that of its content, such as ``image/jpeg``."""

    data: bytes
    name: str
    media_type: str


def uploaded_pictures(most: int) -> list[Picture]:
    """The ``image`` fields of the current request, at least one.

    Raises:
        ApiError: one is missing, empty, too large or not a picture, or they are more than ``most``.
    """
    files = request.files.getlist("image")
    if not files and request.mimetype != "multipart/form-data":
        message = "Send the picture as a form (multipart/form-data), in a field named image."
        raise ApiError(415, "unsupported_media_type", message, "image")
    # a browser's form without a chosen file sends an empty part without a name
    chosen = [(file.filename, data) for file in files if (data := file.read()) or file.filename]
    if not chosen:
        raise ApiError(400, "missing_image", "No picture came with this request. Choose one first.", "image")
    if len(chosen) > most:
        message = f"Pictures in this request: {len(chosen)}. At most {most} can be sent at once."
        raise ApiError(400, "too_many_pictures", message, "image")
    tiled = request.form.get("tiles", "0").strip() not in ("", "0")  # the model validates it
    return [check_picture(data, PurePath(name or "").name or "picture", tiled=tiled) for name, data in chosen]


def check_picture(data: bytes, name: str, *, tiled: bool = False) -> Picture:
    """Check size and header against the app's limits; only the model decodes pixels."""
    limit = current_app.config["MAX_TILED_PIXELS" if tiled else "MAX_PIXELS"]
    if not data:
        raise ApiError(400, "empty_image", "This file is empty (0 bytes). Choose another one.", "image")
    if len(data) > current_app.config["MAX_BYTES"]:
        raise too_many_bytes(current_app.config["MAX_BYTES"])
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            (width, height), kind = image.size, str(image.format)
    except Exception:
        # Pillow's readers raise many kinds of errors on broken headers.
        message = "This file is not a picture that we can read. Choose a JPEG, PNG, WebP, GIF, BMP or TIFF."
        raise ApiError(415, "unsupported_media_type", message, "image") from None
    if width * height > limit:
        message = (
            f"This picture has {width} × {height} pixels; the limit is {limit / 1e6:g} million. "
            "Make it smaller and send it again."
        )
        raise ApiError(422, "too_many_pixels", message, "image")
    return Picture(data, name, Image.MIME[kind])
