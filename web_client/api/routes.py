"""The public API (Contract 3): ``/api/v1/predict``, ``/api/v1/models``, and its description.

``/api/predict`` and ``/api/models`` are the same routes without a version, for people who type them.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from flask import Blueprint, Response, current_app, g, jsonify, render_template, request

from web_client.api.uploads import MAX_PICTURES, Picture, read_pictures
from web_client.backend.torchserve import TorchServe
from web_client.errors import ApiError, unexpected_answer

blueprint = Blueprint("api", __name__, url_prefix="/api")

RESPONSE_TYPES = ("application/json", "image/png")
OWN_FIELDS = ("version", "token")  # of the form; the others are the model's options


def torchserve() -> TorchServe:
    """The app's TorchServe client."""
    client: TorchServe = current_app.extensions["torchserve"]
    return client


def uploaded_pictures(most: int) -> list[Picture]:
    """The current request's pictures, within the app's limits."""
    return read_pictures(request, current_app.config["MAX_BYTES"], current_app.config["MAX_PIXELS"], most)


def requested_version() -> str | None:
    """The form's ``version``, or None for TorchServe's default."""
    version = request.form.get("version", "").strip()
    if version and not re.fullmatch(r"[\w.+-]{1,100}", version):
        message = "There is no such model version. Choose another one."
        raise ApiError(404, "unknown_version", message, "version")
    return version or None


def requested_options() -> dict[str, str]:
    """The form's other fields. The model validates them; only names that break multipart are refused here."""
    options = {name: value for name, value in request.form.items() if name not in OWN_FIELDS}
    for name in options:
        if not name or not name.isprintable():
            message = "An option of this request has no readable name. Leave it out."
            raise ApiError(400, "unknown_option", message, name)
    return options


@blueprint.post("/v1/predict")
@blueprint.post("/predict")
def predict() -> Response:
    """One picture: the model's JSON or PNG. Several: ``{"predictions": […]}`` in their order, each a prediction or
    an error."""
    pictures = uploaded_pictures(MAX_PICTURES)
    version, options = requested_version(), requested_options()
    if len(pictures) == 1:
        return _answer(pictures[0], version, options)
    if options.get("output", "json") not in ("json", "coco"):
        message = "Several pictures can only be answered as JSON. Send them one by one."
        raise ApiError(400, "invalid_option", message, "output")
    predictions = []
    for picture in pictures:
        try:
            predictions.append(json.loads(_answer(picture, version, options).data))
        except ApiError as error:
            predictions.append(error.as_dict())
    return jsonify({"predictions": predictions})


def _answer(picture: Picture, version: str | None, options: dict[str, str]) -> Response:
    reply = torchserve().predict(picture, version, options, g.request_id)
    content_type = reply.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if content_type not in RESPONSE_TYPES:
        raise unexpected_answer()
    return Response(reply.content, content_type=content_type)


@blueprint.get("/v1/models")
@blueprint.get("/models")
def models() -> Response:
    """The versions that are ready: ``{"models": [{"version", "default", "backbone", "classes", "limits",
    "segm_AP"}, …]}``."""
    return jsonify({"models": [summary(model) for model in torchserve().models()]})


def summary(model: dict[str, Any]) -> dict[str, Any]:
    """The part of a model's card that callers need."""
    card = model["card"]
    return {
        "version": model["version"],
        "default": model["default"],
        "backbone": (card.get("model") or {}).get("backbone") or model["version"].partition(".")[0],
        "classes": card.get("classes") or [],
        "limits": card.get("limits") or {},
        "segm_AP": ((card.get("evaluation") or {}).get("segm") or {}).get("AP"),  # 0..100, or None
    }


@cache
def document() -> dict[str, Any]:
    """``openapi.yaml``."""
    text = Path(__file__).with_name("openapi.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


@blueprint.get("/openapi.json")
def openapi() -> Response:
    return jsonify(document())


@blueprint.get("")
def manual() -> str:
    """The same as a page."""
    return render_template("api.html", api=document())
