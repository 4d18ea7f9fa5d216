"""Label Studio's ML backend (https://labelstud.io/guide/ml), where ``--label-studio`` names a Label Studio.

It asks ``health`` and ``setup`` when it connects, and ``predict`` for pre-annotations, which are polygons: unlike
brushes, their outlines can be corrected point by point.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from flask import Blueprint, Flask, Response, current_app, g, jsonify, request

from web_client.api.routes import torchserve
from web_client.backend.label_studio import LabelStudio
from web_client.errors import ApiError, WebClientError, no_model, unexpected_answer

log = logging.getLogger("web_client")
blueprint = Blueprint("label_studio", __name__, url_prefix="/label-studio")

SECONDS = 80
"""For one batch. Label Studio gives up after 100 and then keeps nothing of it."""
MAX_TASKS = 200  # in one batch; the answer is built in memory
MAX_CONFIG = 100_000  # characters of a labeling interface


def register(app: Flask) -> None:
    """Add the routes where ``LABEL_STUDIO`` is set.

    Raises:
        WebClientError: there is no key for it.
    """
    if not app.config["LABEL_STUDIO"]:
        return
    key = os.environ.get("LABEL_STUDIO_API_KEY", "").strip()
    if not key:
        raise WebClientError("set LABEL_STUDIO_API_KEY: Label Studio hands out its pictures only to users")
    app.extensions["label_studio"] = LabelStudio(app.config["LABEL_STUDIO"], key, app.config["MAX_BYTES"])
    app.register_blueprint(blueprint)


@dataclass(frozen=True)
class Interface:
    """The part of a project's labeling interface that predictions refer to."""

    control: str  # the name of its PolygonLabels
    image: str  # the name of its picture
    key: str  # the picture's key in a task's data
    labels: Mapping[str, str]  # class name in lower case → label

    @classmethod
    def read(cls, config: object) -> Interface:
        """Read the XML; raises ApiError if it has no PolygonLabels for a picture."""
        try:
            # expat lets entities grow a hundredfold, so the text must be short
            root = ElementTree.fromstring(str(config)[:MAX_CONFIG])  # noqa: S314
        except (ElementTree.ParseError, ValueError):
            root = ElementTree.Element("View")
        images = {tag.get("name"): tag.get("value", "").removeprefix("$") for tag in root.iter("Image")}
        for tag in root.iter("PolygonLabels"):
            image = tag.get("toName", "")
            if image in images:
                names = [(label.get("value", ""), label.get("alias")) for label in tag.iter("Label")]
                labels = {value.casefold(): alias or value for value, alias in names}
                return cls(tag.get("name", ""), image, images[image], labels)
        message = "The labeling interface needs PolygonLabels for an Image."
        raise ApiError(400, "invalid_option", message, "label_config")

    def regions(self, prediction: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """What Label Studio calls regions: one for each outline; points are in percent of the picture."""
        width, height = prediction["image"]["width"], prediction["image"]["height"]
        for instance in prediction["instances"]:
            label = self.labels.get(instance["class_name"].casefold())
            if label is None:
                continue
            for part, outline in enumerate(instance["mask"]["polygons"]):
                points = [
                    [100 * x / width, 100 * y / height]
                    for x, y in zip(outline[::2], outline[1::2], strict=True)
                ]
                yield {
                    "id": f"{instance['id']}-{part}",
                    "type": "polygonlabels",
                    "from_name": self.control,
                    "to_name": self.image,
                    "original_width": width,
                    "original_height": height,
                    "image_rotation": 0,
                    "score": instance["score"],
                    "value": {"points": points, "closed": True, "polygonlabels": [label]},
                }


def document() -> dict[str, Any]:
    """The request's JSON object, in which ``tasks`` is a list of objects; raises ApiError."""
    content = request.get_json(silent=True)
    if isinstance(content, dict):
        tasks = content.setdefault("tasks", [])
        if isinstance(tasks, list) and all(isinstance(each, dict) for each in tasks):
            return content
    raise ApiError(400, "invalid_option", "This is not what Label Studio sends to an ML backend.", "tasks")


@blueprint.get("/")
@blueprint.get("/health")
def health() -> Response:
    return jsonify({"status": "UP", "model_class": current_app.config["MODEL_NAME"]})


@blueprint.post("/setup")
def setup() -> Response:
    """Check the labeling interface; ``{"model_version"}``, by which Label Studio knows what is not predicted yet."""
    Interface.read(document().get("schema"))
    default = next((each["version"] for each in torchserve().versions() if each["default"]), None)
    if default is None:
        raise no_model()
    return jsonify({"model_version": default})


@blueprint.post("/predict")
def predict() -> Response:
    """``{"results": […]}``, for each task a prediction or an error, which Label Studio logs."""
    start = time.monotonic()
    content = document()
    interface = Interface.read(content.get("label_config"))
    results = []
    for number, task in enumerate(content["tasks"]):
        try:
            if number >= MAX_TASKS or time.monotonic() - start > SECONDS:
                message = "The batch is too long. Retrieve the predictions again for the tasks without one."
                raise ApiError(503, "model_busy", message)
            results.append(_prediction(task, interface))
        except ApiError as error:
            log.warning("%s no prediction for Label Studio: %s", g.request_id, error.message)
            results.append(error.as_dict())
    return jsonify({"results": results})


def _prediction(task: Mapping[str, Any], interface: Interface) -> dict[str, Any]:
    """One task's prediction; ``score`` is the lowest of its objects, to sort the doubtful pictures first."""
    studio: LabelStudio = current_app.extensions["label_studio"]
    data = task.get("data")
    picture = studio.picture(str(data.get(interface.key) if isinstance(data, dict) else ""))
    reply = torchserve().predict(picture, None, {"mask_format": "polygon"}, g.request_id)
    try:
        answer = reply.json()
        regions = list(interface.regions(answer))
        version, names = answer["model"]["version"], {each["class_name"] for each in answer["instances"]}
    except (ValueError, LookupError, TypeError):
        raise unexpected_answer() from None
    if names and not interface.labels.keys() & {name.casefold() for name in names}:
        message = f"The labeling interface has no label for what was found: {', '.join(sorted(names))}."
        raise ApiError(400, "invalid_option", message, "label_config")
    score = min((region["score"] for region in regions), default=None)
    return {"model_version": version, "score": score, "result": regions}
