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
        bits = np.unpackbits(np.array(rle, dtype=np.uint8))
    except (TypeError, ValueError, OverflowError):
        raise broken from None
    place = 0

    def take(count: int, size: int) -> np.ndarray:
        """The next ``count`` numbers of ``size`` bits each."""
        nonlocal place
        place += count * size
        if place > len(bits):
            raise broken
        return bits[place - count * size : place].reshape(count, size) @ (1 << np.arange(size)[::-1])

    total, word = int(take(1, 32)[0]), 1 + int(take(1, 5)[0])
    widths = take(4, 4) + 1
    if total != width * height * 4:
        raise broken
    values = np.zeros(total, dtype=np.uint8)
    done = 0
    while done < total:
        equal, kind = take(1, 1)[0], take(1, 2)[0]
        end = done + 1 + int(take(1, widths[kind])[0])
        if end > total:
            raise broken
        values[done:end] = take(1 if equal else end - done, word)
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
    return np.packbits(np.frombuffer("".join(parts).encode(), np.uint8) - ord("0")).tolist()
