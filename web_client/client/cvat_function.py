"""CVAT's automatic annotation with our model: a function file for ``cvat-cli task auto-annotate``.

::

    PYTHONPATH=. cvat-cli task auto-annotate 42 --function-file web_client/client/cvat_function.py \
        -p url=str:http://127.0.0.1:5000

A Python with cvat-cli, requests and numpy is enough. The task's labels must be named like the model's classes. If the
server asks for a token, put it into the environment variable ``WEB_CLIENT_TOKEN``.
"""

from __future__ import annotations

import io
import os

import cvat_sdk.auto_annotation as cvataa
from cvat_sdk.masks import encode_mask
from cvat_sdk.models import LabeledShapeRequest
from PIL import Image

from web_client.client import Client, ClientError


class MaskRCNN:
    """The version that is the default at the start. ``url`` is the web server's address."""

    def __init__(self, url: str) -> None:
        self._client = Client(url, os.environ.get("WEB_CLIENT_TOKEN"))
        model = next((each for each in self._client.models() if each["default"]), None)
        if model is None:
            raise ClientError(f"no model is ready at {url}: start one with `maskrcnn serve start`")
        self._version: str = model["version"]
        labels = [cvataa.label_spec(name, i, type="mask") for i, name in enumerate(model["classes"])]
        self.spec = cvataa.DetectionFunctionSpec(labels=labels)

    def detect(
        self, context: cvataa.DetectionFunctionContext, image: Image.Image
    ) -> list[LabeledShapeRequest]:
        """The objects of one frame: masks, or polygons with ``--conv-mask-to-poly``; an object's parts form a group."""
        file = io.BytesIO()
        # a PNG of a large photo would exceed the server's limit
        image.convert("RGB").save(file, "JPEG", quality=95, subsampling=0)
        kind = "polygon" if context.conv_mask_to_poly else "rle"
        prediction = self._client.predict(
            file.getvalue(), version=self._version, score_threshold=context.conf_threshold, mask_format=kind
        )
        shapes = []
        for instance, entry in zip(prediction.instances, prediction.document["instances"], strict=True):
            label, score = instance.class_id, instance.score
            if instance.mask is not None:
                shapes.append(cvataa.mask(label, encode_mask(instance.mask), score=score))
                continue
            outlines = entry["mask"]["polygons"]
            group = instance.id + 1 if len(outlines) > 1 else 0
            shapes += [cvataa.polygon(label, points, score=score, group=group) for points in outlines]
        return shapes


create = MaskRCNN
