"""Photos of a job as pixels, instances as masks, and overlays of both.

A photo is read again here: its answer came from another process, or another machine.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm import tqdm

from handler.errors import PredictError
from handler.imaging.decode import decode_image
from handler.imaging.masks import Crop, crop_to_polygons, encode_png
from handler.imaging.render import color
from handler.imaging.render import paint as paint_instances
from handler.predict.sources import file_name
from handler.predict.store import Store, usable
from handler.predict.worker import read

ANNOTATED = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp"}
"""The formats that annotation tools open, by Pillow's names."""
MIN_IOU = 0.99
"""Of the polygons with the mask. A mask with holes stays a mask: polygons would fill them."""


def read_pixels(photo: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB.

    Raises:
        PredictError: the photo has gone since it was predicted.
    """
    return decode_image(_bytes(photo), 2**40)  # its size was accepted when it was predicted


def _bytes(photo: str) -> bytes:
    try:
        return read(photo)
    except Exception as error:
        raise PredictError(f"{photo} was predicted, and can no longer be read: put it back") from error


def as_file(photo: str, place: Path) -> Path:
    """The photo as a file that annotation tools open: itself, or a copy at ``place`` with a suffix added."""
    data = _bytes(photo)
    with Image.open(io.BytesIO(data)) as image:
        suffix = ANNOTATED.get(image.format or "")
    if suffix and "://" not in photo:
        return Path(photo)
    if not suffix:
        suffix, data = ".png", encode_png(cv2.cvtColor(read_pixels(photo), cv2.COLOR_RGB2BGR))
    target = place.with_suffix(suffix)
    target.write_bytes(data)
    return target


def crop_of(mask: Mapping[str, Any]) -> Crop:
    """A compressed COCO RLE inside its own bounding box."""
    x, y, width, height = (int(value) for value in coco_mask.toBbox(mask))
    bits = coco_mask.decode(mask)[y : y + height, x : x + width]
    return Crop(np.ascontiguousarray(bits.T).astype(bool), x, y)


def outline_of(mask: Mapping[str, Any]) -> list[list[float]] | Mapping[str, Any]:
    """The polygons of a mask, with as few points as :data:`MIN_IOU` allows; the mask itself if it allows none."""
    exact = [np.array(each, np.float32).reshape(-1, 1, 2) for each in crop_to_polygons(crop_of(mask))]
    for tolerance in (3, 2, 1, 0):  # pixels
        polygons = [cv2.approxPolyDP(each, tolerance, closed=True).ravel().tolist() for each in exact]
        if min(map(len, polygons), default=0) >= 6:
            drawn = coco_mask.merge(coco_mask.frPyObjects(polygons, *mask["size"]))
            if coco_mask.iou([drawn], [mask], [0])[0, 0] >= MIN_IOU:
                return polygons
    return mask


def paint(
    pixels: np.ndarray, instances: Sequence[Mapping[str, Any]], tracks: Sequence[int] | None = None
) -> np.ndarray:
    """The photo with its instances painted on; with tracks, in their colors and with their numbers."""
    labels = np.zeros(pixels.shape[:2], np.uint16)
    for i in reversed(range(len(instances))):
        crop = crop_of(instances[i]["mask"])
        labels[crop.window][crop.bits] = i + 1
    numbers = range(len(instances)) if tracks is None else tracks
    captions = [
        f"{each['class_name']} " + (f"{each['score']:.0%}" if tracks is None else str(number))
        for each, number in zip(instances, numbers, strict=True)
    ]
    boxes = np.array([each["box"] for each in instances], np.float32).reshape(-1, 4)
    crops = (crop_of(each["mask"]) for each in instances)
    return paint_instances(pixels, labels, crops, boxes, captions, [color(number) for number in numbers])


def write_overlays(store: Store, folder: Path, left_out: Set[str]) -> None:
    """Write ``folder/NAME.png`` for each predicted photo; what is there already stays.

    Raises:
        PredictError: the disk is full, or a photo is gone.
    """
    targets = picture_paths(folder, sorted(store.done() - left_out))
    with usable(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        for photo, answer in tqdm(store.photos(), "painting", len(targets), unit="photo", disable=None):
            target = targets.get(photo)
            if target and "error" not in answer and not target.exists():
                picture = paint(read_pixels(photo), answer["instances"])
                temporary = target.with_suffix(".tmp")
                temporary.write_bytes(encode_png(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)))
                temporary.replace(target)


def picture_paths(folder: Path, photos: Sequence[str]) -> dict[str, Path]:
    """``folder/NAME.png`` for each photo; where photos share a name, a hash of the path is added."""
    stems = {photo: Path(file_name(photo)).stem for photo in photos}
    shared = Counter(stems.values())
    digests = {photo: sha256(photo.encode()).hexdigest()[:8] for photo in photos}
    return {
        photo: folder / (f"{stem}-{digests[photo]}.png" if shared[stem] > 1 else f"{stem}.png")
        for photo, stem in stems.items()
    }
