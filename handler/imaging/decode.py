"""Decode untrusted image bytes to RGB, or raise RequestError.

The header gives format and size, and the limits are checked against it before any pixel is decoded. Decoding changes no
global state, so threads may decode side by side.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from handler.api.errors import BadRequest, RequestError, TooManyBytes, UnknownType, Unprocessable

Image.MAX_IMAGE_PIXELS = None  # Pillow's warns or raises above 89 megapixels; check_size has ours

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""Accepted formats, by Pillow's names (MPO, which some phones write, is a JPEG followed by more images)."""
Size = tuple[int, int]  # height, width
_FORMAT_LIST = "JPEG, PNG, WebP, BMP, TIFF or GIF"

MAX_ASPECT_RATIO = 100
"""Width to height or height to width; beyond it, an image shrinks to a line when resized for the network."""

MAX_JPEG_SCANS = 100
"""Encoders write 10 scans at most. A decoder goes over the whole image for each, and a file of 3 MB has room for a
hundred thousand: minutes of work."""

BAND_PIXELS = 2**22

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\x00", b"MM\x00*", b"GIF87a", b"GIF89a")
_ORIENTATION = 0x0112
# a marker that begins a segment or ends the image: not a stuffed zero, TEM or a restart, which have no length
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd7\xff])")


def check_bytes(data: bytes, max_bytes: int) -> None:
    """Refuse a file that is too long, before it is decoded."""
    if len(data) > max_bytes:
        raise TooManyBytes(
            "image_too_large",
            f"The image file is larger than this server accepts ({max_bytes:,} bytes).",
            "image",
        )


def decode_image(data: bytes, max_pixels: int) -> np.ndarray:
    """Decode an image as a person would see it.

    - EXIF orientation is applied; of an animation or a multi-page document, the first frame is used.
    - Transparent parts become white.
    - CMYK and YCbCr become RGB without color management; color profiles are ignored.
    - 16-bit samples keep their upper 8 bits (the full range, not the range in use, maps to 0..255).

    Args:
        data: the file's bytes; the caller limits their number.
        max_pixels: the limit on width × height.

    Returns:
        (H, W, 3) uint8, RGB, C-contiguous.

    Raises:
        UnknownType: 415, not one of :data:`FORMATS`, or 32-bit samples.
        Unprocessable: 422, too many pixels, a shape beyond :data:`MAX_ASPECT_RATIO`, or a JPEG that would take minutes.
        BadRequest: 400 ``undecodable_image``, truncated or corrupt.
    """
    return decode_at_least(data, max_pixels, None)[0]


def decode_at_least(
    data: bytes, max_pixels: int, needed: Callable[[int, int], Size] | None
) -> tuple[np.ndarray, Size]:
    """As :func:`decode_image`, but a JPEG of at least twice the needed height and width is decoded at half its size.

    libjpeg then computes a quarter of the pixels, each the mean of four, which takes half the time.

    Args:
        needed: from the photo's (height, width) to those that will be used; None decodes every image at its size.

    Returns:
        The pixels, and (height, width) of the whole image as a person sees it.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        check_size(*image.size, max_pixels)
        rgb = None
        if image.format in ("JPEG", "MPO"):
            whole = check_scans(data)
            width, height = image.size
            enough = needed(height, width) if needed else (height, width)
            half = height >= 2 * enough[0] and width >= 2 * enough[1]
            rgb = _decode_jpeg(data, half) if whole and image.mode == "RGB" else None
        if rgb is None:
            image.load()
        # after loading: a PNG may store it last, and a TIFF applies it while loading
        orientation = _orientation(image)
    except (RequestError, MemoryError):
        raise
    except UnidentifiedImageError:
        if data.startswith(_SIGNATURES) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
            raise _undecodable() from None
        raise UnknownType(
            "unsupported_media_type", f"This is not an image of a known type; send {_FORMAT_LIST}.", "image"
        ) from None
    # on corrupt bytes, decoders raise a dozen kinds of exception
    except Exception:
        raise _undecodable() from None
    pixels = np.ascontiguousarray(_upright(_to_rgb(image) if rgb is None else rgb, orientation))
    if rgb is None:
        return pixels, pixels.shape[:2]
    return pixels, image.size if orientation >= 5 else image.size[::-1]


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Check the size that a header claims, before any pixel is decoded."""
    if width * height > max_pixels:
        raise Unprocessable(
            "too_many_pixels",
            f"The image is {width} × {height} pixels; this server accepts at most {max_pixels:,}. Resize it.",
            "image",
        )
    if width < 1 or height < 1:
        raise _undecodable()
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise Unprocessable(
            "image_too_narrow",
            f"The image is {width} × {height}; one side may be at most {MAX_ASPECT_RATIO} times the other.",
            "image",
        )


def check_scans(data: bytes) -> bool:
    """Refuse a JPEG with too many scans; return whether it reaches its end-of-image marker.

    Goes from marker to marker (ITU-T T.81, B.1.1): a segment states its length, and the entropy-coded data after a
    start of scan contain no marker but restarts. A thumbnail in the metadata is skipped with its segment, and
    whatever follows the end (the video of a motion photo) is not read.
    """
    position, scans = 2, 0
    while found := _JPEG_MARKER.search(data, position):
        if found[1] == b"\xd9":
            return scans > 0
        scans += found[1] == b"\xda"
        if scans > MAX_JPEG_SCANS:
            raise Unprocessable(
                "too_many_scans",
                "The JPEG has far too many scans; save it again in an image editor.",
                "image",
            )
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    return False


def _decode_jpeg(data: bytes, half: bool) -> np.ndarray | None:
    """A complete three-channel JPEG → (H, W, 3) uint8; None if OpenCV cannot read it and Pillow should try.

    OpenCV and Pillow call the same library, but OpenCV lets it write straight into the array: twice as fast. It does
    not notice a truncated file, so the caller checks for its end.
    """
    kind = cv2.IMREAD_REDUCED_COLOR_2 if half else cv2.IMREAD_COLOR_RGB
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), kind | cv2.IMREAD_IGNORE_ORIENTATION)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if half and pixels is not None else pixels


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1 if it is missing or unreadable."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # corrupt metadata around a good image: leave it as stored
        return 1
    return value if value in range(1, 9) else 1


def _upright(rgb: np.ndarray, orientation: int) -> np.ndarray:
    """Apply the EXIF orientation (EXIF 2.3, tag 0x0112): transpose for 5..8, then mirror the axes."""
    if orientation >= 5:
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    return rgb


def _to_rgb(image: Image.Image) -> np.ndarray:
    """A decoded image of any mode → (H, W, 3) uint8, in bands, as Pillow needs several times their memory."""
    width, height = image.size
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        rgb[top : top + rows] = _band_to_rgb(image.crop((0, top, width, min(top + rows, height))))
    return rgb


def _band_to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):
        # in the machine's byte order, or the dtype names the order
        gray = np.asarray(image)
        return np.repeat((gray >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode in ("I", "F", "LAB"):
        raise UnknownType(
            "unsupported_media_type",
            "Images with 32-bit samples or in Lab color are not supported; save as 8-bit or 16-bit RGB.",
            "image",
        )
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(rgba, mask=rgba.getchannel("A"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _undecodable() -> BadRequest:
    return BadRequest(
        "undecodable_image", "The image is corrupt or truncated and cannot be decoded.", "image"
    )
