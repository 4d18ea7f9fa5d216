"""Images that are broken, huge or unusual, and files that are no images."""

from __future__ import annotations

import base64
import random
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from tests.corpus.case import Case, drawing, files
from tests.handler import awkward
from tests.handler.awkward import save


def truncated(rng: random.Random) -> Iterator[Case]:
    for kind, data in files().items():
        size = len(data)
        for cut in (1, 2, 4, 9, 25, size // 3, size // 2, size - 20, size - 2, size - 1):
            yield Case(f"{kind} cut after {cut} of {size}", data[:cut])


def flipped(rng: random.Random) -> Iterator[Case]:
    """One to thirty flipped bits, in the header half of the time."""
    for kind, data in files().items():
        for number in range(20):
            bits = bytearray(data)
            end = len(data) if number % 2 else min(64, len(data))
            for _ in range(rng.choice((1, 1, 3, 30))):
                bits[rng.randrange(end)] ^= 1 << rng.randrange(8)
            yield Case(f"{kind} with flipped bits {number}", bytes(bits))


def spliced(rng: random.Random) -> Iterator[Case]:
    """Parts left out, doubled, or taken from another format; and noise."""
    whole = files()
    for kind, data in whole.items():
        start, end = sorted(rng.sample(range(len(data)), 2))
        other = rng.choice(list(whole.values()))
        yield Case(f"{kind} without its middle", data[:start] + data[end:])
        yield Case(f"{kind} with its middle twice", data[:end] + data[start:])
        yield Case(f"{kind} that goes on as another", data[:start] + other[start:])
        yield Case(f"{kind} with a long tail", data + rng.randbytes(100_000))
    for length in (0, 1, 2, 16, 1000, 100_000, 2_999_999, 3_000_001):
        yield Case(f"{length} zero bytes", bytes(length))
        yield Case(f"{length} random bytes", rng.randbytes(length))


def sized(rng: random.Random) -> Iterator[Case]:
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"):
        for size in "1×1 1×2 3×1 16000×1 1×16000 65535×1 200×2 1400×1400".split():
            width, height = map(int, size.split("×"))
            if max(width, height) > {"WEBP": 16_383, "JPEG": 65_500}.get(kind, 2**16):
                continue  # the format has no such size
            yield Case(f"{kind} of {width} × {height}", save(Image.new("RGB", (width, height)), kind))
    for width, height in ((0, 0), (0, 9), (2**31 - 1, 1), (2**31, 2**31), (2**32 - 1, 2**32 - 1)):
        yield Case(f"PNG that claims {width} × {height}", awkward.png(width, height, 8, 2, bytes(99)))


def bombs(rng: random.Random) -> Iterator[Case]:
    """Small files that cost much memory or time to decode."""
    for kind in ("PNG", "BMP", "GIF", "JPEG"):
        yield Case(f"{kind} that claims 30,000 × 30,000", awkward.bomb(kind))
    yield Case("PNG of 8,000 × 8,000 zeros", awkward.png(8000, 8000, 8, 0, bytes(8001 * 8000)))
    yield Case("PNG with far more pixels than it claims", awkward.png(10, 10, 8, 2, bytes(100_000_000)))
    good = files()["PNG"]
    for kind, prefix in ((b"zTXt", b"k\0\0"), (b"iCCP", b"p\0\0"), (b"iTXt", b"k\0\1\0\0\0")):
        body = prefix + zlib.compress(bytes(200_000_000), 9)
        yield Case(f"PNG with a bomb in {kind.decode()}", good[:33] + chunk(kind, body) + good[33:])
    yield Case("PNG of 100,000 empty chunks", good[:33] + chunk(b"IDAT", b"") * 100_000 + good[33:])
    gif = bytearray(files()["GIF"])
    at = gif.index(b",\0\0\0\0")
    gif[at + 5 : at + 9] = struct.pack("<HH", 65_535, 65_535)
    yield Case("GIF with a frame larger than the screen", bytes(gif))
    frames = [Image.new("L", (64, 48), i % 256) for i in range(2000)]
    yield Case("GIF of 2,000 frames", save(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    webp = bytearray(files()["lossless"])
    at = webp.index(b"VP8L") + 9
    webp[at : at + 4] = struct.pack("<I", 16_383 | 16_383 << 14)
    yield Case("WebP that claims 16,384 × 16,384", bytes(webp))
    canvas = bytearray(save(Image.new("RGBA", (64, 48), (9, 9, 9, 9)), "WEBP", exif=b"Exif\0\0II*\0"))
    if b"VP8X" in canvas:
        at = canvas.index(b"VP8X") + 12
        canvas[at : at + 6] = b"\xff" * 6
        yield Case("WebP with a canvas of 2^24", bytes(canvas))
    for compression in ("tiff_deflate", "tiff_lzw", "packbits"):
        data = save(Image.new("L", (3000, 3000)), "TIFF", compression=compression)
        yield Case(f"TIFF of 3,000 × 3,000 zeros, {compression}", data)
    tiff = awkward.gray16_big_endian_tiff()
    for tag, value in {256: 2**31, 257: 2**31, 258: 64, 277: 60_000, 278: 2**32 - 1, 279: 2**32 - 1}.items():
        yield Case(f"TIFF with {value} in tag {tag}", with_tag(tiff, tag, value))
    yield Case("TIFF whose directory is its own next", tiff[:-4] + struct.pack(">I", 8))
    yield Case("TIFF with a directory behind its end", b"II*\0" + struct.pack("<I", 2**32 - 1) + bytes(9))
    yield Case("JPEG with thousands of scans", scans(1400, 1400, 2_500_000))


def scans(width: int, height: int, size: int) -> bytes:
    """A progressive JPEG that repeats its last scan: a decoder visits every block for each one."""
    data = save(Image.new("L", (width, height), 77), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * ((size - len(data)) // len(last)) + data[-2:]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_tag(tiff: bytes, tag: int, value: int) -> bytes:
    """A big-endian TIFF with another value, of type LONG, in one entry of its first directory."""
    count = struct.unpack(">H", tiff[8:10])[0]
    at = next(10 + 12 * i for i in range(count) if struct.unpack_from(">H", tiff, 10 + 12 * i)[0] == tag)
    return tiff[: at + 2] + struct.pack(">HII", 4, 1, value) + tiff[at + 12 :]


def unusual(rng: random.Random) -> Iterator[Case]:
    """Valid images in modes and formats that few programs are tested with."""
    yield Case("16-bit gray PNG", awkward.gray16())
    yield Case("16-bit RGB PNG", awkward.rgb16())
    yield Case("16-bit gray TIFF", awkward.gray16_big_endian_tiff())
    yield Case("palette", awkward.palette(False))
    yield Case("palette with transparency", awkward.palette(True))
    yield Case("RGBA", awkward.rgba())
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        yield Case(f"animated {kind}", awkward.animation(kind))
    image = drawing()
    modes = {
        "PNG": "1 L LA P I;16",
        "TIFF": "1 L CMYK LAB F I YCbCr RGBA",
        "JPEG": "CMYK L YCbCr",
        "BMP": "1 P",
        "WEBP": "RGBA",
    }
    for kind, mode in [(kind, mode) for kind, names in modes.items() for mode in names.split()]:
        converted = image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode)
        yield Case(f"{mode} {kind}", save(converted, kind))
    for kind in ("EPS", "ICO", "PCX", "PPM", "TGA", "SGI", "DDS", "MSP", "PDF", "JPEG2000", "ICNS"):
        target = image.convert("1") if kind == "MSP" else image.resize((64, 64))
        yield Case(f"{kind}, which is not accepted", save(target, kind))


def exif(rng: random.Random) -> Iterator[Case]:
    for kind in ("JPEG", "PNG", "WEBP"):
        for orientation in (0, 2, 3, 4, 5, 6, 7, 8, 9, 65_535):
            yield Case(f"{kind} with orientation {orientation}", awkward.oriented(orientation, kind))
    image = awkward.corners()
    good = save(image, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\1\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0")
    for number in range(15):
        bits = bytearray(good)
        at = good.index(b"Exif")
        for _ in range(3):
            bits[at + 6 + rng.randrange(26)] = rng.randrange(256)
        yield Case(f"JPEG with broken EXIF {number}", bytes(bits))
    yield Case("JPEG with a thumbnail", awkward.with_thumbnail())
    yield Case("JPEG with 60 kB of EXIF", save(image, "JPEG", exif=b"Exif\0\0" + rng.randbytes(60_000)))


def misnamed(rng: random.Random) -> Iterator[Case]:
    names = ["a.png", "a.svg", "a.php", "a.jpg.exe", "../../etc/passwd", "C:\\a.jpg", "a\0b.png", "ü" * 300]
    names += ["", "'\";--"]
    for kind, data in (("JPEG", files()["JPEG"]), ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>")):
        for name in names:
            yield Case(f"{kind} called {name[:20]!r}", data, filename=name)


def polyglots(rng: random.Random) -> Iterator[Case]:
    whole = files()
    script = b"<script>alert(1)</script><?php system('id'); ?>"
    svg = b"<?xml version='1.0'?><!DOCTYPE s [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><svg>&x;</svg>"
    for kind in ("JPEG", "PNG", "GIF", "BMP"):
        archive = b"PK\x03\x04" + rng.randbytes(60) + b"PK\x05\x06" + bytes(18)
        yield Case(f"{kind} followed by a ZIP", whole[kind] + archive)
        yield Case(f"{kind} followed by HTML", whole[kind] + script)
    yield Case("GIF that is JavaScript", b"GIF89a/*" + whole["GIF"][8:] + b"*/=1;alert(1)")
    yield Case("SVG that reads a file", svg)
    nested = b"<svg><image href='data:;base64," + base64.b64encode(whole["PNG"]) + b"'/></svg>"
    yield Case("SVG with a picture inside", nested)
    heads = {"HTML": script, "PDF": b"%PDF-1.7\n", "ELF": b"\x7fELF" + bytes(60), "gzip": b"\x1f\x8b\x08"}
    for name, data in heads.items():
        yield Case(f"{name} for a picture", data)
    yield Case("pickle for a picture", b"cos\nsystem\n(S'id'\ntR.")


KINDS = (truncated, flipped, spliced, sized, bombs, unusual, exif, misnamed, polyglots)
