"""Find photos that look alike: one scene photographed twice, neighboring frames of a film, a photo saved again."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

SIDE = 16  # of the hash, in bits
# Of the 256 bits so many may differ. Among 154 everyday photos the two most alike differ in 48; photos that were saved
# again, also at a third of their size, differ in at most 20 (460 of 462 cases).
NEAR = 24


def difference_hash(image: Image.Image) -> np.ndarray:
    """The difference hash of a picture, (4,) uint64: in which of 16 x 16 places it gets brighter to the right."""
    small = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX), dtype=np.int16)
    return np.packbits(small[:, 1:] > small[:, :-1]).view(np.uint64)


def near_pairs(hashes: Sequence[np.ndarray], limit: int = NEAR) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, of hashes that differ in at most ``limit`` bits."""
    every = np.array(hashes, dtype=np.uint64).reshape(len(hashes), -1)
    for i in range(len(every) - 1):
        distances = np.bitwise_count(every[i + 1 :] ^ every[i]).sum(axis=1)
        for j in np.flatnonzero(distances <= limit).tolist():
            yield i, i + 1 + j
