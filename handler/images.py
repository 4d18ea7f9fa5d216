"""The bytes of a picture from a stranger → an RGB array, or a refusal in one sentence.

Order of work: bytes are counted before anything reads them; the header gives format and size; the pixel cap
is judged from the header; only then is anything decoded. Nothing here touches global state, so threads may
decode side by side.
"""

from __future__ import annotations

import io
import warnings

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from handler.errors import BadRequest, RequestError, TooManyBytes, UnknownType, Unprocessable

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
        if image.format in ("JPEG", "MPO"):
            check_scans(data)
        rgb = _decode_jpeg(data) if image.format in ("JPEG", "MPO") and image.mode == "RGB" else None
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


def check_scans(data: bytes) -> None:
    """Judge a JPEG by its start-of-scan markers, which entropy-coded data never hold (ITU-T T.81, B.1.1.5)."""
    if data.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise Unprocessable(
            "too_many_scans", "The picture is a JPEG of far too many scans; save it anew.", "image"
        )


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """A complete three-channel JPEG → (H, W, 3) uint8; None where Pillow shall look more closely.

    OpenCV and Pillow call the same library, but OpenCV has it write straight into the array: twice as fast.
    OpenCV 4 takes a file that is cut short for a whole one, so the end-of-image marker must stand behind the
    last start-of-scan (ITU-T T.81, B.1.1.2: entropy-coded data never hold a marker; a thumbnail in the
    metadata ends before the scan).
    """
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        return None
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
