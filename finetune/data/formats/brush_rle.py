"""Label Studio's brush masks: the RLE of https://github.com/thi-ng/umbrella (package rle-pack) over RGBA bytes.

A stream of bits: 32 for the number of values, 5 for their width less one, four times 4 for the widths of run lengths
less one; then per run a bit (1 for equal values), 2 for the width, the length less one, and the value or values.
"""

from typing import Any

import numpy as np


def decode_brush(rle: Any, width: int, height: int) -> np.ndarray:
    """A mask (H, W) bool from the bytes of a brush: the pixels with an alpha above 0.

    Raises:
        ValueError: the bytes do not unpack to a picture of this size.
    """
    broken = ValueError(f"has a brush RLE that does not unpack to {width} x {height} pixels")
    try:
        data = np.array(rle, dtype=np.uint8)
    except (TypeError, ValueError, OverflowError):
        raise broken from None
    bits = "".join(map(str, np.unpackbits(data).tolist()))
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        if place > len(bits):
            raise broken
        return int(bits[place - count : place], 2)

    total = take(32)
    if total != width * height * 4:
        raise broken
    word = take(5) + 1
    widths = [take(4) + 1 for _ in range(4)]
    values = np.zeros(total, dtype=np.uint8)
    done = 0
    while done < total:
        equal = take(1)
        end = done + 1 + take(widths[take(2)])
        if end > total:
            raise broken
        if equal:
            values[done:end] = take(word) & 255
        else:
            for i in range(done, end):
                values[i] = take(word) & 255
        done = end
    return values.reshape(height, width, 4)[..., 3] > 0


def encode_brush(mask: np.ndarray) -> list[int]:
    """The bytes of a brush for a mask (H, W) bool."""
    values = np.repeat(mask.ravel().astype(np.uint8) * 255, 4)
    edges = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1, [values.size]])
    parts = [f"{values.size:032b}", f"{7:05b}", *(f"{width - 1:04b}" for width in (4, 8, 12, 16))]
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        while start < stop:
            count = min(stop - start, 1 << 16)
            parts.append(f"1{3:02b}{count - 1:016b}{values[start]:08b}")
            start += count
    bits = "".join(parts)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
