"""Split a request body into the encoded image and the options, not yet validated.

A body is the image itself, a multipart form, or a JSON document. A server passes it on as a mapping of part name →
value; a body that is not a form is the single part ``body``. A value is bytes, text (a part typed ``text/…``), or
whatever a part typed ``application/json`` decoded to.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from handler.api.errors import BadRequest, UnknownType, quoted
from handler.api.options import OPTION_NAMES, FormText

IMAGE_FIELDS = ("image", "data")
"""The form fields that may hold the image."""

_DATA_URI = re.compile(r"data:[\w.+-]*/?[\w.+-]*(;[\w.+-]+=[\w.+-]+)*;base64,", re.ASCII | re.IGNORECASE)
_WHITESPACE = str.maketrans("", "", " \t\r\n")
_HOW = 'Send it as the body, as the form field image, or as base64 in JSON {"image": "…"}.'


@dataclass(frozen=True)
class Body:
    """A request split up: the encoded image, and the options by name."""

    image: bytes
    options: dict[str, object]


def parse_body(parts: Mapping[str, object], content_type: str) -> Body:
    """Split one request.

    Args:
        parts: part name → bytes, str or decoded JSON.
        content_type: the request's Content-Type, or "" when it has none.

    Raises:
        BadRequest: no image or two, invalid JSON, invalid base64.
        UnknownType: an unsupported kind of body.
    """
    mime = content_type.partition(";")[0].strip().lower()
    if mime == "application/x-www-form-urlencoded":
        # curl's default for --data-binary; TorchServe has already split the body at & and =
        raise UnknownType(
            "unsupported_media_type",
            "A URL-encoded form cannot carry an image; with curl use -T FILE or -F image=@FILE.",
        )
    if mime == "multipart/form-data" and "boundary=" not in content_type.lower():
        raise BadRequest("invalid_form", "The multipart form has no boundary in its Content-Type.")
    whole = "body" in parts and mime != "multipart/form-data"
    body = _whole_body(parts["body"], mime) if whole else _form(parts)
    if not body.image:
        raise BadRequest("missing_image", f"The request has no image. {_HOW}", "image")
    return body


def _whole_body(value: object, mime: str) -> Body:
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes | bytearray):
        if mime != "application/json" and value.lstrip()[:1] != b"{":
            return Body(bytes(value), {})
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadRequest("invalid_json", "The body is not valid JSON.") from None
    return _json(value)


def _json(document: object) -> Body:
    """``{"image": "<base64 or data URI>", "options": {…}}``"""
    if not isinstance(document, dict):
        raise BadRequest("invalid_json", f"The JSON body must be an object. {_HOW}")
    for name in document:
        if name not in ("image", "options"):
            hint = " Put it inside options." if name in OPTION_NAMES else ""
            raise BadRequest(
                "unknown_field",
                f"The JSON body has {quoted(name)}; it may have only image and options.{hint}",
                quoted(name)[1:-1],
            )
    if "image" not in document:
        raise BadRequest("missing_image", f"The request has no image. {_HOW}", "image")
    options = document.get("options", {})
    if not isinstance(options, dict):
        raise BadRequest("invalid_option", "options must be an object of option names and values.", "options")
    return Body(_base64(document["image"]), options)


def _base64(text: object) -> bytes:
    if not isinstance(text, str):
        raise BadRequest("invalid_base64", "image must be a string: base64 or a data URI.", "image")
    if text[:5].lower() == "data:":
        uri = _DATA_URI.match(text[:200])
        if uri is None:
            raise BadRequest(
                "invalid_base64", "image is a data URI without base64; write data:image/…;base64,….", "image"
            )
        text = text[uri.end() :]
    try:
        return base64.b64decode(text.translate(_WHITESPACE), validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("invalid_base64", "image is not valid base64.", "image") from None


def _form(parts: Mapping[str, object]) -> Body:
    """A multipart form: the image is in ``image`` or ``data``; every other field is an option."""
    named = [name for name in IMAGE_FIELDS if name in parts]
    if len(named) == 2:
        raise BadRequest(
            "two_images", "The form has both image and data; send one image per request.", "data"
        )
    if not named:
        unknown = next((name for name in parts if name not in OPTION_NAMES), None)
        hint = f" The form has a field {quoted(unknown)} instead." if unknown is not None else ""
        raise BadRequest("missing_image", f"The request has no image. {_HOW}{hint}", "image")
    image = parts[named[0]]
    # a part typed text/…: TorchServe decoded it as UTF-8, so this restores its bytes
    if isinstance(image, str):
        image = image.encode()
    if not isinstance(image, bytes | bytearray):
        raise BadRequest("missing_image", f"The field {named[0]} must hold the image file.", named[0])
    options = {name: _form_value(name, value) for name, value in parts.items() if name not in IMAGE_FIELDS}
    return Body(bytes(image), options)


def _form_value(name: str, value: object) -> object:
    if isinstance(value, bytes | bytearray):
        try:
            return FormText(value.decode())
        except UnicodeDecodeError:
            raise BadRequest(
                "invalid_option", f"The field {quoted(name)} is not UTF-8 text.", quoted(name)[1:-1]
            ) from None
    return FormText(value) if isinstance(value, str) else value
