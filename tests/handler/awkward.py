"""Draws the pictures that strangers send: every mode, orientation and way of being broken, as file bytes."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 60, 40
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners() -> Image.Image:
    """60 × 40 RGB with another colour in each quarter: red, green above blue, white."""
    image = Image.new("RGB", (WIDTH, HEIGHT), RED)
    image.paste(GREEN, (30, 0, 60, 20))
    image.paste(BLUE, (0, 20, 30, 40))
    image.paste(WHITE, (30, 20, 60, 40))
    return image


def save(image: Image.Image, kind: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def oriented(orientation: int, kind: str = "JPEG") -> bytes:
    """The corners as a camera would store them with that EXIF orientation: upright once it is applied."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = corners().transpose(undo[orientation]) if orientation in undo else corners()
    exif = Image.Exif()
    exif[0x0112] = orientation
    settings = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    return save(stored, kind, exif=exif, **settings)


def gray16() -> bytes:
    """A PNG with 16-bit gray samples: 0x1234 left, 0xFEDC right."""
    samples = np.full((HEIGHT, WIDTH), 0x1234, np.uint16)
    samples[:, 30:] = 0xFEDC
    return save(Image.fromarray(samples), "PNG")


def gray16_big_endian_tiff() -> bytes:
    """The same as a TIFF with Motorola's byte order, as microscopes write it."""
    samples = np.full((HEIGHT, WIDTH), 0x1234, ">u2")
    samples[:, 30:] = 0xFEDC
    entries = [(256, 4, WIDTH), (257, 4, HEIGHT), (258, 3, 16), (259, 3, 1), (262, 3, 1), (277, 3, 1)]
    pixels_at = 8 + 2 + 12 * (len(entries) + 3) + 4
    entries += [(273, 4, pixels_at), (278, 4, HEIGHT), (279, 4, samples.nbytes)]
    head = b"MM\x00*" + struct.pack(">IH", 8, len(entries))
    for tag, kind, value in sorted(entries):
        head += struct.pack(">HHI", tag, kind, 1) + (
            struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value)
        )
    return head + struct.pack(">I", 0) + samples.tobytes()


def rgb16() -> bytes:
    """A PNG with 16-bit RGB samples (0x8040, 0x2010, 0xFF00), written by hand: Pillow cannot."""
    row = b"\x00" + struct.pack(">HHH", 0x8040, 0x2010, 0xFF00) * WIDTH
    return png(WIDTH, HEIGHT, 16, 2, row * HEIGHT)


def png(width: int, height: int, depth: int, colour: int, raw: bytes) -> bytes:
    """A PNG out of its unfiltered rows; the header may claim a size that the rows do not have."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    )


def bomb(kind: str = "PNG") -> bytes:
    """A small file whose header claims 30,000 × 30,000 pixels."""
    if kind == "PNG":
        return png(30_000, 30_000, 8, 2, b"\x00" * 1000)
    if kind == "BMP":
        data = bytearray(save(corners(), "BMP"))
        data[18:26] = struct.pack("<ii", 30_000, 30_000)
        return bytes(data)
    if kind == "GIF":
        data = bytearray(save(corners(), "GIF"))
        data[6:10] = struct.pack("<HH", 30_000, 30_000)
        return bytes(data)
    data = bytearray(save(corners(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 30_000, 30_000)
    return bytes(data)


def palette(transparent: bool) -> bytes:
    """A PNG with a palette; its blue quarter may be transparent."""
    image = corners().quantize(4)
    if not transparent:
        return save(image, "PNG")
    blue = image.getpixel((10, 30))
    return save(image, "PNG", transparency=blue)


def rgba() -> bytes:
    """The corners, with the red quarter half transparent and the blue one wholly."""
    image = corners().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 255))
    image.paste((255, 0, 0, 128), (0, 0, 30, 20))
    image.paste((0, 0, 255, 0), (0, 20, 30, 40))
    return save(image, "PNG")


def animation(kind: str) -> bytes:
    """Three frames; the first one is the corners, the others are black."""
    frames = [Image.new("RGB", (WIDTH, HEIGHT), "black")] * 2
    settings = {"lossless": True} if kind == "WEBP" else {}
    return save(corners(), kind, save_all=True, append_images=frames, duration=100, **settings)


def with_thumbnail() -> bytes:
    """A JPEG with a whole JPEG inside its metadata: an end-of-image marker long before its own."""
    exif = Image.Exif()
    exif[0x010E] = save(corners(), "JPEG").decode("latin-1")
    return save(corners(), "JPEG", exif=exif, quality=95)
