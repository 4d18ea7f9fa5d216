"""What the annotation tools' own packages make of our answers and files. Runs in a Python that has them, for the tests.

::

    python -m venv tools && tools/bin/pip install label-studio-sdk cvat-cli requests datumaro labelme ultralytics
    ANNOTATION_TOOLS=tools/bin/python python -m pytest tests/web_client tests/handler -k "label_studio or cvat or tool"
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image


def label_studio(config: str, predictions: list[dict[str, Any]]) -> list[list[str]]:
    """What its validation finds wrong with each prediction."""
    from label_studio_sdk.label_interface import LabelInterface

    interface = LabelInterface(config)
    return [interface.validate_prediction(each, return_errors=True) for each in predictions]


def cvat(url: str, file: str, picture: str, polygons: bool, threshold: float | None) -> list[dict[str, Any]]:
    """The shapes that it would upload for a picture: type, label id, score, and its mask or points."""
    import logging

    from cvat_cli._internal.common import FunctionLoader
    from cvat_sdk.auto_annotation import driver
    from cvat_sdk.masks import decode_mask
    from cvat_sdk.models import Label

    function = FunctionLoader(None, Path(file), {"url": url}).load()
    kind = "polygon" if polygons else "mask"
    label = Label._from_openapi_data(name="balloon", id=77, type=kind, attributes=[], sublabels=[])
    mapper = driver._AnnotationMapper(
        logging.getLogger(),
        function.spec.labels,
        [label],
        allow_unmatched_labels=False,
        conv_mask_to_poly=polygons,
    )
    context = driver._DetectionFunctionContextImpl(
        frame_name="a.png", conf_threshold=threshold, conv_mask_to_poly=polygons
    )
    with Image.open(picture) as image:
        _, shapes = mapper.validate_and_remap(function.detect(context, image), 5)
        size = {"image_width": image.width, "image_height": image.height}
    return [
        {
            "type": str(shape.type),
            "label": shape.label_id,
            "score": shape.score,
            "points": shape.points if polygons else decode_mask(shape.points, **size).tolist(),
        }
        for shape in shapes
    ]


def read_export(format_name: str, folder: str) -> dict[str, Any]:
    """The photos of an export as the tool reads them: name → {"size": (height, width), "labels", "mask"}.

    ``mask`` is the COCO RLE of all objects together.
    """
    import numpy as np
    from pycocotools import mask as coco_mask

    readers = {
        "coco": _read_coco,
        "cvat": _read_cvat,
        "label-studio": _read_label_studio,
        "labelme": _read_labelme,
        "yolo": _read_yolo,
    }
    photos = {}
    for name, (height, width), labels, masks in readers[format_name](Path(folder)):
        union = np.zeros((height, width), bool)
        for mask in masks:
            union |= np.asarray(mask, bool)
        rle = coco_mask.encode(np.asfortranarray(union, np.uint8))
        mask = {"size": rle["size"], "counts": rle["counts"].decode()}
        photos[name] = {"size": (height, width), "labels": sorted(labels), "mask": mask}
    return photos


def _fill(polygon: Any, size: tuple[int, int]) -> Any:
    """A polygon, of pixels in any nesting, as a mask."""
    import numpy as np
    from pycocotools import mask as coco_mask

    return coco_mask.decode(coco_mask.frPyObjects([np.ravel(polygon).tolist()], *size))[..., 0]


def _read_coco(folder: Path) -> Iterator[tuple[Any, ...]]:
    from pycocotools.coco import COCO

    coco = COCO(str(folder / "train/_annotations.coco.json"))
    for image in coco.imgs.values():
        assert (folder / "train" / image["file_name"]).is_file()
        found = coco.imgToAnns[image["id"]]
        labels = [coco.cats[each["category_id"]]["name"] for each in found]
        size = image["height"], image["width"]
        yield image["file_name"], size, labels, [coco.annToMask(each) for each in found]


def _read_cvat(folder: Path) -> Iterator[tuple[Any, ...]]:
    """By Datumaro, which CVAT itself reads and writes this format with."""
    from datumaro import Dataset

    data = Dataset.import_from(str(folder), "cvat", subset="train")
    names = [each.name for each in data.categories()[next(iter(data.categories()))].items]
    for item in data:
        size = item.media.size
        assert item.media.data is not None
        masks = [
            each.image if hasattr(each, "image") else _fill(each.points, size) for each in item.annotations
        ]
        yield Path(item.media.path).name, size, [names[each.label] for each in item.annotations], masks


def _read_label_studio(folder: Path) -> Iterator[tuple[Any, ...]]:
    import numpy as np
    from label_studio_sdk.converter.brush import decode_rle
    from label_studio_sdk.label_interface import LabelInterface

    interface = LabelInterface((folder / "interface.xml").read_text())
    for task in json.loads((folder / "train/label_studio.json").read_text()):
        assert interface.validate_task({"data": task["data"]})
        path = folder / task["data"]["image"].partition("?d=")[2]
        with Image.open(path) as image:
            size = image.height, image.width
        labels, masks = [], []
        for prediction in task["predictions"]:
            assert not interface.validate_prediction(prediction, return_errors=True)
            for region in prediction["result"]:
                value = region["value"]
                labels += value[region["type"]]
                if "rle" in value:
                    masks.append(np.reshape(decode_rle(value["rle"]), (*size, 4))[..., 3] > 0)
                else:
                    masks.append(_fill(np.array(value["points"]) / 100 * size[::-1], size))
        yield path.name, size, labels, masks


def _read_labelme(folder: Path) -> Iterator[tuple[Any, ...]]:
    import numpy as np
    from labelme._label_file import LabelFile
    from labelme.utils import img_data_to_arr

    for path in sorted(folder.glob("train/*.json")):
        file = LabelFile(str(path))
        size = img_data_to_arr(file.imageData).shape[:2]
        masks = []
        for shape in file.shapes:
            mask = np.zeros(size, bool)
            if shape["shape_type"] == "mask":
                (x0, y0), (x1, y1) = (map(int, point) for point in shape["points"])
                mask[y0 : y1 + 1, x0 : x1 + 1] = shape["mask"]
            masks.append(mask if mask.any() else _fill(shape["points"], size))
        yield Path(file.imagePath).name, size, [shape["label"] for shape in file.shapes], masks


def _read_yolo(folder: Path) -> Iterator[tuple[Any, ...]]:
    import yaml

    os.environ["YOLO_CONFIG_DIR"] = tempfile.gettempdir()
    from ultralytics.data.dataset import YOLODataset

    config = yaml.safe_load((folder / "data.yaml").read_text())
    data = YOLODataset(img_path=str(folder / config["train"]), data=config | {"channels": 3}, task="segment")
    for label in data.labels:
        size = label["shape"]
        masks = [_fill(segment * size[::-1], size) for segment in label["segments"]]
        labels = [config["names"][int(number)] for number in label["cls"].ravel()]
        yield Path(label["im_file"]).name, size, labels, masks


if __name__ == "__main__":
    name, arguments = json.load(sys.stdin)
    answer = {"label_studio": label_studio, "cvat": cvat, "read_export": read_export}[name]
    with contextlib.redirect_stdout(sys.stderr):  # pycocotools prints its progress
        found = answer(**arguments)
    json.dump(found, sys.stdout)
