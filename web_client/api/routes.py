"""The public API (Contract 3): ``/api/v1/predict``, ``/api/v1/models``, and its description.

``/api/predict`` and ``/api/models`` are the same routes without a version, for people who type them.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from flask import Blueprint, Response, current_app, g, jsonify, render_template, request

from web_client.api import review
from web_client.api.uploads import MAX_PICTURES, Picture, uploaded_pictures
from web_client.backend.torchserve import TorchServe
from web_client.errors import ApiError, unexpected_answer

log = logging.getLogger("web_client")
blueprint = Blueprint("api", __name__, url_prefix="/api")

RESPONSE_TYPES = ("application/json", "image/png")
OWN_FIELDS = ("version", "token", "review")  # of the form; the others are the model's options


def torchserve() -> TorchServe:
    """The app's TorchServe client."""
    client: TorchServe = current_app.extensions["torchserve"]
    return client


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


def flagged_as_wrong() -> bool:
    """Whether the visitor wants the pictures kept for review (``review=wrong``)."""
    value = request.form.get("review", "").strip()
    if not value:
        return False
    message = ""
    if "review" not in current_app.extensions:
        message = "This server keeps no pictures for review. Leave the field review out."
    elif value != review.WRONG or not _has_masks(request.form):
        message = "The field review takes the value wrong, and no output or mask_format beside it."
    if message:
        raise ApiError(400, "invalid_option", message, "review")
    return True


def _has_masks(options: Mapping[str, str]) -> bool:
    """Whether the answer has the masks in the form in which the review store keeps them."""
    return options.get("output", "json") == "json" and options.get("mask_format", "rle") == "rle"


@blueprint.post("/v1/predict")
@blueprint.post("/predict")
def predict() -> Response:
    """One picture: the model's JSON or PNG. Several: ``{"predictions": […]}`` in their order, each a prediction or
    an error."""
    pictures = uploaded_pictures(MAX_PICTURES)
    version, options, flagged = requested_version(), requested_options(), flagged_as_wrong()
    if len(pictures) == 1:
        return _answer(pictures[0], version, options, flagged)
    if options.get("output", "json") not in ("json", "coco"):
        message = "Several pictures can only be answered as JSON. Send them one by one."
        raise ApiError(400, "invalid_option", message, "output")
    predictions = []
    for picture in pictures:
        try:
            predictions.append(json.loads(_answer(picture, version, options, flagged).data))
        except ApiError as error:
            predictions.append(error.as_dict())
    return jsonify({"predictions": predictions})


def _answer(picture: Picture, version: str | None, options: dict[str, str], flagged: bool) -> Response:
    reply = torchserve().predict(picture, version, options, g.request_id)
    content_type = reply.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if content_type not in RESPONSE_TYPES:
        raise unexpected_answer()
    if "review" in current_app.extensions and _has_masks(options):
        _review(picture, options, json.loads(reply.content), flagged)
    return Response(reply.content, content_type=content_type)


def _review(picture: Picture, options: dict[str, str], answer: dict[str, Any], flagged: bool) -> None:
    """Keep the picture if it is flagged, if another version disagrees, or if the answer is uncertain.

    If that fails, only a flagged picture's request fails with it.
    """
    store: review.ReviewStore = current_app.extensions["review"]
    try:
        card = torchserve().card(answer["model"]["version"])
        threshold = score_threshold(card)
        reasons = {
            review.WRONG: flagged,
            review.DISAGREEMENT: store.disagrees(picture, options, answer, threshold),
            review.UNCERTAIN: review.is_uncertain(answer, threshold),
        }
        if reason := next((name for name, holds in reasons.items() if holds), None):
            classes = card.get("classes") or []
            store.keep(picture, answer, reason, score_threshold=threshold, classes=classes)
            log.info("%s kept for review: %s", g.request_id, reason)
    except (OSError, ValueError, LookupError, TypeError) as error:
        log.error("%s not kept for review: %s", g.request_id, error)
        if flagged:
            message = "The picture could not be kept for review. Tell the server's operator."
            raise ApiError(503, "review_unavailable", message, "review", 60) from None


@blueprint.get("/v1/models")
@blueprint.get("/models")
def models() -> Response:
    """The versions that are ready: ``{"models": [{"version", "default", "backbone", "classes", "limits",
    "segm_AP", "score_threshold"}, …]}``."""
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
        "score_threshold": score_threshold(card),
        "segm_AP": ((card.get("evaluation") or {}).get("segm") or {}).get("AP"),  # 0..100, or None
    }


def score_threshold(card: Mapping[str, Any]) -> float:
    """The model's default for this option."""
    options = card.get("options") or []
    return next((float(each["default"]) for each in options if each["name"] == "score_threshold"), 0.5)


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
