"""Turn the objects of a photo, as a tool wrote them, into clean polygons and masks of the upright photo."""

import cv2
import numpy as np

from finetune.data.dataset import Instance, Photo
from finetune.data.formats.source import Annotations, Options, SourceObject, SourcePhoto
from finetune.data.masks import Segmentation, box_and_area, clean_polygon, encode_mask, to_mask
from finetune.data.photos import open_photo, orientation_of, upright_size
from finetune.errors import UserError


def convert_photo(
    photo: SourcePhoto, classes: list[str], annotations: Annotations, options: Options
) -> Photo:
    """Check, clip and turn the objects of a photo.

    Args:
        classes: the names to number them by.
        annotations: its notes and crowds are added to.

    Raises:
        UserError: the photo cannot be read or is not the one that was annotated, or an object cannot be used.
    """
    with open_photo(photo.path, decode=False) as image:
        stored, upright, orientation = image.size, upright_size(image), orientation_of(image)
    listed = photo.size or upright
    if listed not in (upright, stored):
        size, says = "x".join(map(str, upright)), "x".join(map(str, listed))
        raise UserError(f"{photo.path} has {size} pixels but its annotations say {says}: use the original")
    # Some tools ignore EXIF data and draw on the photo as it is stored; the listed size gives them away.
    turn = orientation if listed != upright else 1
    instances = []
    for each in photo.objects:
        try:
            segmentation = _segmentation(each, listed, turn)
            class_name = options.class_name or each.class_name
            if class_name not in classes:
                reason = f"has the class {class_name!r}, which no training photo has"
                raise ValueError(reason if class_name else "has no class")
            iscrowd = each.iscrowd and _stays_crowd(segmentation, annotations, options.crowd)
            instances.append(Instance(classes.index(class_name), segmentation, iscrowd))
        except ValueError as error:
            trouble = f"{each.label} of {photo.path} {error}"
            if not options.skip_bad:
                raise UserError(f"{trouble}: correct it, or leave such objects out with --skip-bad") from None
            annotations.notes.append(f"skipped: {trouble}")
    return Photo(photo.name, photo.path, *upright, instances)


def _segmentation(each: SourceObject, size: tuple[int, int], orientation: int) -> Segmentation:
    """Check, clip and turn an outline; ValueError says what is wrong with it."""
    outline, (width, height) = each.outline(*size), size
    if isinstance(outline, list):
        polygons = [clean_polygon(polygon, width, height) for polygon in outline]
        if box_and_area(polygons, width, height)[1] == 0:
            raise ValueError("covers no pixel")
        return [turn_polygon(polygon, width, height, orientation) for polygon in polygons]
    mask = outline if isinstance(outline, np.ndarray) else to_mask(outline, width, height)
    if not mask.any():
        raise ValueError("has an empty mask")
    return encode_mask(turn_mask(mask, orientation))


def _stays_crowd(segmentation: Segmentation, annotations: Annotations, crowd: str) -> bool:
    """Whether something marked ``iscrowd`` is one; ``annotations`` counts what becomes of it."""
    single = crowd == "object"
    if crowd == "auto" and isinstance(segmentation, dict):
        mask = to_mask(segmentation, *reversed(segmentation["size"])).astype(np.uint8)
        single = annotations.crowds_are_objects or cv2.connectedComponents(mask)[0] == 2
    annotations.crowds["trained on" if single else "not trained on"] += 1
    return not single


def turn_polygon(polygon: list[float], width: int, height: int, orientation: int) -> list[float]:
    """Turn a flat polygon from the stored photo (of this size) upright, by EXIF orientation 1 or 5 to 8."""
    x, y = np.reshape(polygon, (-1, 2)).T
    down, right = height - y, width - x
    turned = {1: (x, y), 5: (y, x), 6: (down, x), 7: (down, right), 8: (y, right)}[orientation]
    return [float(value) for value in np.stack(turned, axis=1).ravel()]


def turn_mask(mask: np.ndarray, orientation: int) -> np.ndarray:
    """Turn a (H, W) mask of the stored photo upright, by EXIF orientation 1 or 5 to 8."""
    if orientation == 1:
        return mask
    return {5: mask.T, 6: np.rot90(mask, -1), 7: np.rot90(mask, 2).T, 8: np.rot90(mask)}[orientation]
