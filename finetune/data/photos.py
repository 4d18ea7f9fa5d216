"""Open untrusted photo files with Pillow: a fixed list of formats, and a cap on pixels.

Cameras store a photo lying on its side and note so in its EXIF data. Detectron2 turns it upright when it reads it, and
so do browsers. A data set of ours holds upright photos only: one with an orientation other than 1 is turned and saved
again without that tag; all others are copied as they are.
"""

import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from finetune.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
MAX_PIXELS = 80_000_000
ORIENTATION = 0x0112  # the EXIF tag; 1 is upright, 5 to 8 lie on their side
SIDE = 16  # of the difference hash, in bits
# Of its 256 bits so many may differ in photos that look alike. Among 154 everyday photos the two most alike differ in
# 48; photos that were saved again, also at a third of their size, differ in at most 20 (460 of 462 cases).
NEAR = 24


def open_photo(path: Path, *, decode: bool = True, draft: bool = False) -> Image.Image:
    """Open a photo as it is stored (not yet turned upright); without ``decode`` its header alone is read,
    with ``draft`` a JPEG is decoded at a small size.

    Raises:
        UserError: missing, no image, truncated, or more than MAX_PIXELS.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # odd EXIF data do no harm
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
            image = Image.open(path, formats=FORMATS)
            try:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                if draft:
                    image.draft("RGB", (1, 1))
                if decode:
                    image.load()
            except BaseException:
                image.close()
                raise
            return image
    except FileNotFoundError:
        raise UserError(f"{path} is missing: put it there or remove it from the annotations") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{path} has more than {MAX_PIXELS:,} pixels: make it smaller") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, …
        reason = str(error) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "not an image of the formats " + ", ".join(FORMATS)
        raise UserError(f"{path} cannot be read ({reason}): replace the file or leave it out") from None


def photo_path(folder: Path, name: str) -> Path:
    """The file of a photo that an annotation file names; the name must stay inside the folder.

    Raises:
        UserError: the name leads elsewhere, or nothing is there.
    """
    # by the name alone: a photo may well be a link, as data version control makes them
    if os.path.isabs(name) or ".." in Path(name.replace("\\", "/")).parts:
        raise UserError(f"the annotations name the photo {name!r} outside {folder}: use plain file names")
    path = folder / name
    if not path.is_file():
        raise UserError(f"{path} is missing: put the photo there or remove it from the annotations")
    return path


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 also where there is none or a wrong one."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    # broken EXIF data raise anything; Detectron2 reads such a photo as stored, and so do we
    except Exception:
        return 1
    return value if value in range(1, 9) else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as a person sees the photo."""
    lying = orientation_of(image) >= 5
    return (image.height, image.width) if lying else (image.width, image.height)


def copy_upright(source: Path, target: Path) -> None:
    """Copy a photo; one that is stored turned or mirrored is saved again upright (JPEG quality 95)."""
    with open_photo(source, decode=False) as image:
        upright = orientation_of(image) == 1
    # A JPEG that need not be turned is decoded at an eighth of its size, which shows as well whether it is whole.
    with open_photo(source, draft=upright) as image:
        if upright:
            shutil.copyfile(source, target)
            return
        kind = (
            "JPEG" if image.format == "MPO" else image.format
        )  # several pictures in one file: the first counts
        options = {} if kind == "PNG" else {"quality": 95, "subsampling": 0}
        turned = ImageOps.exif_transpose(image)
        turned.save(target, format=kind, icc_profile=image.info.get("icc_profile"), **options)


def difference_hash(image: Image.Image) -> np.ndarray:
    """The difference hash of a picture, (4,) uint64: in which of 16 x 16 places it gets brighter to the right."""
    small = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX), dtype=np.int16)
    return np.packbits(small[:, 1:] > small[:, :-1]).view(np.uint64)


def near_pairs(hashes: Sequence[np.ndarray]) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, of photos that look alike: one scene twice, frames of a film, a photo saved again."""
    every = np.array(hashes, dtype=np.uint64).reshape(len(hashes), -1)
    for i in range(len(every) - 1):
        distances = np.bitwise_count(every[i + 1 :] ^ every[i]).sum(axis=1)
        for j in np.flatnonzero(distances <= NEAR).tolist():
            yield i, i + 1 + j
