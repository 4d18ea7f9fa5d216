"""The bytes of a picture from a stranger → an RGB array, or a refusal in one sentence.

Order of work: bytes are counted before anything reads them; the header gives format and size; the pixel cap
is judged from the header; only then is anything decoded. Nothing here touches global state, so threads may
decode side by side.
"""

from __future__ import annotations

import io
import re
import warnings

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from handler.api.errors import BadRequest, RequestError, TooManyBytes, UnknownType, Unprocessable

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""What is accepted, as Pillow names them (MPO, the format of some phones, is a JPEG with more behind it)."""
_FORMAT_LIST = "JPEG, PNG, WebP, BMP, TIFF or GIF"

MAX_ASPECT_RATIO = 100
"""A picture longer than this times its width shrinks to a line when it is resized for the network."""

MAX_JPEG_SCANS = 100
"""Encoders make 10 scans at most. A decoder goes over the whole picture for each, and a file of 3 MB has room for a
hundred thousand: minutes of work."""

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\x00", b"MM\x00*", b"GIF87a", b"GIF89a")
_ORIENTATION = 0x0112
# a marker that begins a segment or ends the picture: not a stuffed zero, TEM or a restart, which have no length
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd7\xff])")

# Pillow's own cap lies at 89 million pixels, above any of ours; set once, because changing filters per call
# is not thread-safe
warnings.simplefilter("error", Image.DecompressionBombWarning)


def decode_image(data: bytes, max_bytes: int, max_pixels: int) -> np.ndarray:
    """Decode a picture as a person would see it.

    - EXIF orientation is applied; of an animation or a document of several pages the first one is taken.
    - Transparent parts lie on white, as on a page.
    - CMYK and YCbCr become RGB without colour management; colour profiles are ignored.
    - 16-bit samples keep their upper 8 bits (the whole range, not the range in use, is what maps to 0..255).

    Args:
        data: the file's bytes.
        max_bytes, max_pixels: the caps; pixels are width × height of the header.

    Returns:
        (H, W, 3) uint8, RGB, C-contiguous.

    Raises:
        TooManyBytes: 413. UnknownType: 415, not one of :data:`FORMATS` or 32-bit samples.
        Unprocessable: 422, too many pixels, a shape beyond :data:`MAX_ASPECT_RATIO`, or a JPEG that would take
            minutes.
        BadRequest: 400 ``undecodable_image``, truncated or corrupt.
    """
    if len(data) > max_bytes:
        raise TooManyBytes(
            "image_too_large", f"The picture has more bytes than this server takes ({max_bytes:,}).", "image"
        )
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        check_size(*image.size, max_pixels)
        rgb = None
        if image.format in ("JPEG", "MPO"):
            whole = check_scans(data)
            rgb = _decode_jpeg(data) if whole and image.mode == "RGB" else None
        if rgb is None:
            image.load()
        # only now: a PNG may tell it last, and a TIFF applies it while loading
        orientation = _orientation(image)
    except (RequestError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels(max_pixels) from None
    except UnidentifiedImageError:
        if data.startswith(_SIGNATURES) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
            raise _undecodable() from None
        raise UnknownType(
            "unsupported_media_type", f"This is not a picture of a known type; send {_FORMAT_LIST}.", "image"
        ) from None
    # decoders raise a dozen kinds of exception on corrupt bytes, and none of them is our fault
    except Exception:
        raise _undecodable() from None
    return np.ascontiguousarray(_upright(_to_rgb(image) if rgb is None else rgb, orientation))


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Judge a size that a header claims, before any pixel is decoded."""
    if width * height > max_pixels:
        raise _too_many_pixels(max_pixels, f"{width} × {height}")
    if width < 1 or height < 1:
        raise _undecodable()
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise Unprocessable(
            "image_too_narrow",
            f"The picture is {width} × {height}; one side may be {MAX_ASPECT_RATIO} times the other at most.",
            "image",
        )


def check_scans(data: bytes) -> bool:
    """Judge a JPEG by the number of its scans. Returns whether it goes on to its end-of-image marker.

    From marker to marker, as ITU-T T.81, B.1.1 has it: a segment tells its length, and the entropy-coded data after a
    start of scan hold no marker but restarts. A thumbnail in the metadata is skipped with its segment, and what lies
    behind the end (the video of a motion photo) is not looked at.
    """
    position, scans = 2, 0
    while found := _JPEG_MARKER.search(data, position):
        if found[1] == b"\xd9":
            return scans > 0
        scans += found[1] == b"\xda"
        if scans > MAX_JPEG_SCANS:
            raise Unprocessable(
                "too_many_scans", "The picture is a JPEG of far too many scans; save it anew.", "image"
            )
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    return False


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """A whole three-channel JPEG → (H, W, 3) uint8; None where Pillow shall look more closely.

    OpenCV and Pillow call the same library, but OpenCV has it write straight into the array: twice as fast. It takes
    a file that is cut short for a whole one, so the caller looks for its end.
    """
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1 where there is none or where it cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # corrupt metadata around a good picture: show it as it lies
        return 1
    return value if value in range(1, 9) else 1


def _upright(rgb: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the camera's orientation (EXIF 2.3, tag 0x0112): transpose for 5..8, then mirror the axes."""
    if orientation >= 5:
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    return rgb


def _to_rgb(image: Image.Image) -> np.ndarray:
    """A decoded picture of any mode → (H, W, 3) uint8."""
    if image.mode.startswith("I;16"):
        # Pillow gives it in the machine's byte order or names the order in the dtype
        gray = np.asarray(image)
        return np.repeat((gray >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode in ("I", "F", "LAB"):
        raise UnknownType(
            "unsupported_media_type",
            "Pictures with 32-bit samples or in Lab colours are not supported; save as 8 or 16 bit RGB.",
            "image",
        )
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(rgba, mask=rgba.getchannel("A"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _too_many_pixels(max_pixels: int, size: str = "") -> Unprocessable:
    is_size = f" is {size} pixels" if size else " has too many pixels"
    return Unprocessable(
        "too_many_pixels",
        f"The picture{is_size}; this server takes at most {max_pixels:,}. Make it smaller.",
        "image",
    )


def _undecodable() -> BadRequest:
    return BadRequest(
        "undecodable_image", "The picture is corrupt or cut short and cannot be decoded.", "image"
    )
