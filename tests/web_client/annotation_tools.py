"""What Label Studio's and CVAT's own packages make of our answers. Runs in a Python that has them, for the tests.

::

    python -m venv tools && tools/bin/pip install label-studio-sdk cvat-cli requests
    ANNOTATION_TOOLS=tools/bin/python python -m pytest tests/web_client -k "label_studio or cvat"
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


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
    from PIL import Image

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


if __name__ == "__main__":
    name, arguments = json.load(sys.stdin)
    json.dump({"label_studio": label_studio, "cvat": cvat}[name](**arguments), sys.stdout)
