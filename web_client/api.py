"""``POST /api/predict`` and ``GET /api/models`` (Contract 3)."""

from __future__ import annotations

import re
from typing import Any

from flask import Blueprint, Response, current_app, g, jsonify, request

from web_client.errors import ApiError, unexpected_answer
from web_client.torchserve import TorchServe
from web_client.uploads import Picture, read_picture

blueprint = Blueprint("api", __name__, url_prefix="/api")

RESPONSE_TYPES = ("application/json", "image/png")


def torchserve() -> TorchServe:
    """The app's TorchServe client."""
    client: TorchServe = current_app.extensions["torchserve"]
    return client


def uploaded_picture() -> Picture:
    """The current request's picture, within the app's limits."""
    return read_picture(request, current_app.config["MAX_BYTES"], current_app.config["MAX_PIXELS"])


def requested_version() -> str | None:
    """The form's ``version``, or None for TorchServe's default."""
    version = request.form.get("version", "").strip()
    if version and not re.fullmatch(r"[\w.+-]{1,100}", version):
        message = "There is no such model version. Choose another one."
        raise ApiError(404, "unknown_version", message, "version")
    return version or None


def requested_options() -> dict[str, str]:
    """The form's other fields. The model validates them; only names that break multipart are refused here."""
    options = {name: value for name, value in request.form.items() if name != "version"}
    for name in options:
        if not name or not name.isprintable():
            message = "An option of this request has no readable name. Leave it out."
            raise ApiError(400, "unknown_option", message, name)
    return options


@blueprint.post("/predict")
def predict() -> Response:
    """Multipart form: ``image``, optionally ``version``, and Contract 2's options."""
    picture = uploaded_picture()
    reply = torchserve().predict(picture, requested_version(), requested_options(), g.request_id)
    content_type = reply.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if content_type not in RESPONSE_TYPES:
        raise unexpected_answer()
    return Response(reply.content, content_type=content_type)


@blueprint.get("/models")
def models() -> Response:
    """The versions that are ready: ``{"models": [{"version", "default", "backbone", "classes", "limits",
    "segm_AP"}, …]}``."""
    return jsonify({"models": [summary(model) for model in torchserve().models()]})


def summary(model: dict[str, Any]) -> dict[str, Any]:
    """The part of a model's card that the page needs."""
    card = model["card"]
    return {
        "version": model["version"],
        "default": model["default"],
        "backbone": (card.get("model") or {}).get("backbone") or model["version"].partition(".")[0],
        "classes": card.get("classes") or [],
        "limits": card.get("limits") or {},
        "segm_AP": ((card.get("evaluation") or {}).get("segm") or {}).get("AP"),  # 0..100, or None
    }
