"""Raw, multipart and JSON bodies, as TorchServe hands them over, and every way of getting them wrong."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from handler.api.errors import RequestError
from handler.api.options import Options, parse_options
from handler.api.request_parsing import parse_body

PICTURE = b"\xff\xd8\xff picture \x00\x01\xfe"
BASE64 = base64.b64encode(PICTURE).decode()
FORM = "multipart/form-data; boundary=x"
CLASSES = ["balloon", "kite", "7", "a, b"]


def read(parts: dict[str, Any], content_type: str = "", max_bytes: int = 1000) -> tuple[bytes, Options]:
    body = parse_body(parts, content_type, max_bytes)
    return body.image, parse_options(body.options, CLASSES)


@pytest.mark.parametrize(
    ("parts", "content_type"),
    [
        ({"body": bytearray(PICTURE)}, ""),
        ({"body": PICTURE}, "image/jpeg"),
        ({"body": PICTURE}, "application/octet-stream"),
        ({"image": bytearray(PICTURE)}, FORM),
        ({"data": bytearray(PICTURE)}, FORM),
        ({"body": {"image": BASE64}}, "application/json"),
        ({"body": {"image": BASE64, "options": {}}}, "application/json; charset=utf-8"),
        ({"body": {"image": f"data:image/jpeg;base64,{BASE64}"}}, "application/json"),
        ({"body": {"image": f"DATA:;charset=x;base64,{BASE64}"}}, "application/json"),
        ({"body": {"image": BASE64[:8] + "\r\n" + BASE64[8:] + "\n"}}, "application/json"),
        ({"body": f'{{"image": "{BASE64}"}}'.encode()}, "application/json"),
        ({"body": f' {{"image": "{BASE64}"}}'.encode()}, ""),
        ({"body": f'{{"image": "{BASE64}"}}'}, "text/plain"),
    ],
    ids=[
        "raw without a type",
        "raw with one",
        "raw as octets",
        "form: image",
        "form: data",
        "JSON",
        "JSON with a charset",
        "data URI",
        "data URI with parameters",
        "base64 in lines",
        "JSON that nobody decoded",
        "JSON without a type (curl -T)",
        "JSON as text",
    ],
)
def test_every_kind_of_body(parts: dict[str, Any], content_type: str) -> None:
    image, options = read(parts, content_type)
    assert image == PICTURE
    assert isinstance(image, bytes)
    assert options == Options()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"score_threshold": 0}, Options(score_threshold=0.0)),
        ({"score_threshold": 1}, Options(score_threshold=1.0)),
        ({"max_detections": 300}, Options(max_detections=300)),
        ({"max_detections": 10.0}, Options(max_detections=10)),  # JSON knows one kind of number
        ({"classes": "all"}, Options()),
        ({"classes": "kite"}, Options(classes=frozenset({1}))),
        ({"classes": "balloon,kite"}, Options(classes=frozenset({0, 1}))),
        ({"classes": " kite , 0"}, Options(classes=frozenset({0, 1}))),
        ({"classes": ["kite", 0]}, Options(classes=frozenset({0, 1}))),
        ({"classes": 3}, Options(classes=frozenset({3}))),
        ({"classes": [0.0, 1]}, Options(classes=frozenset({0, 1}))),
        ({"classes": "7"}, Options(classes=frozenset({2}))),  # a name wins over an id
        ({"classes": ["a, b"]}, Options(classes=frozenset({3}))),
        ({"mask_format": "polygon"}, Options(mask_format="polygon")),
        ({"output": "coco"}, Options(output="coco")),
        ({"output": "coco", "mask_format": "none"}, Options(output="coco", mask_format="none")),
        ({"output": "overlay", "mask_format": "png"}, Options(output="overlay", mask_format="png")),
    ],
    ids=str,
)
def test_options_in_json(given: dict[str, Any], expected: Options) -> None:
    assert read({"body": {"image": BASE64, "options": given}}, "application/json")[1] == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"score_threshold": b"0.25"}, Options(score_threshold=0.25)),
        ({"score_threshold": b" 1e-1 "}, Options(score_threshold=0.1)),
        ({"score_threshold": ".5"}, Options(score_threshold=0.5)),
        ({"score_threshold": 0.25}, Options(score_threshold=0.25)),  # a part typed application/json
        ({"max_detections": bytearray(b"7")}, Options(max_detections=7)),
        ({"classes": b"balloon,1"}, Options(classes=frozenset({0, 1}))),
        ({"output": b"labels"}, Options(output="labels")),
    ],
    ids=str,
)
def test_options_in_a_form(given: dict[str, Any], expected: Options) -> None:
    assert read({"image": PICTURE, **given}, FORM)[1] == expected


def option(name: str, value: object) -> dict[str, Any]:
    return {"body": {"image": BASE64, "options": {name: value}}}


REFUSED: list[tuple[dict[str, Any], str, int, str, str | None]] = [
    # the body
    ({"body": b""}, "", 400, "missing_image", "image"),
    ({}, FORM, 400, "missing_image", "image"),
    ({"photo": PICTURE}, FORM, 400, "missing_image", "image"),
    ({"image": PICTURE, "data": PICTURE}, FORM, 400, "two_images", "data"),
    ({"image": b""}, FORM, 400, "missing_image", "image"),
    ({"image": {"a": 1}}, FORM, 400, "missing_image", "image"),
    ({"image": None}, FORM, 400, "missing_image", "image"),
    ({"body": PICTURE}, FORM, 400, "missing_image", "image"),  # a field called body
    ({"body": PICTURE}, "multipart/form-data", 400, "invalid_form", None),
    ({"image": PICTURE}, "application/x-www-form-urlencoded", 415, "unsupported_media_type", None),
    ({"x\xd8": b""}, "Application/X-WWW-Form-Urlencoded; charset=x", 415, "unsupported_media_type", None),
    ({"body": b"x" * 1001}, "", 413, "image_too_large", "image"),
    ({"image": b"x" * 1001}, FORM, 413, "image_too_large", "image"),
    (
        {"body": {"image": base64.b64encode(b"x" * 1001).decode()}},
        "application/json",
        413,
        "image_too_large",
        "image",
    ),
    # JSON
    ({"body": b"{"}, "application/json", 400, "invalid_json", None),
    ({"body": b"\xff\xfe{"}, "application/json", 400, "invalid_json", None),
    ({"body": b"[" * 100_000}, "application/json", 400, "invalid_json", None),
    ({"body": None}, "application/json", 400, "invalid_json", None),
    ({"body": [1]}, "application/json", 400, "invalid_json", None),
    ({"body": "text"}, "application/json", 400, "invalid_json", None),
    ({"body": {}}, "application/json", 400, "missing_image", "image"),
    ({"body": {"image": None}}, "application/json", 400, "invalid_base64", "image"),
    ({"body": {"image": ""}}, "application/json", 400, "missing_image", "image"),
    ({"body": {"image": "no base64!"}}, "application/json", 400, "invalid_base64", "image"),
    ({"body": {"image": "abc"}}, "application/json", 400, "invalid_base64", "image"),
    ({"body": {"image": "ä"}}, "application/json", 400, "invalid_base64", "image"),
    ({"body": {"image": "\ud800"}}, "application/json", 400, "invalid_base64", "image"),
    ({"body": {"image": "data:image/png,abc"}}, "application/json", 400, "invalid_base64", "image"),
    ({"body": {"image": BASE64, "extra": 1}}, "application/json", 400, "unknown_field", "extra"),
    ({"body": {"image": BASE64, "output": "json"}}, "application/json", 400, "unknown_field", "output"),
    ({"body": {"image": BASE64, "options": []}}, "application/json", 400, "invalid_option", "options"),
    ({"body": {"image": BASE64, "options": None}}, "application/json", 400, "invalid_option", "options"),
    # options
    (option("treshold", 0.5), "", 400, "unknown_option", "treshold"),
    (option("a\nb", 0.5), "", 400, "unknown_option", "a\\nb"),
    (option("x" * 500, 0.5), "", 400, "unknown_option", "x" * 39 + "…"),
    ({"image": PICTURE, "Output": b"json"}, FORM, 400, "unknown_option", "Output"),
    ({"image": PICTURE, "output": b"\xff\xfe"}, FORM, 400, "invalid_option", "output"),
    *[
        (option("score_threshold", value), "", 400, "invalid_option", "score_threshold")
        for value in (
            -0.01,
            1.01,
            10**400,
            -(10**400),
            True,
            None,
            "0.5",
            float("nan"),
            float("inf"),
            [0.5],
            {},
        )
    ],
    *[
        ({"image": PICTURE, "score_threshold": value}, FORM, 400, "invalid_option", "score_threshold")
        for value in (
            b"",
            b"nan",
            b"inf",
            b"-1",
            b"0,5",
            b"0.5.5",
            b"0x1",
            b"1_0",
            "٠".encode(),
            b"1e999",
            b"9" * 99,
        )
    ],
    *[
        (option("max_detections", value), "", 400, "invalid_option", "max_detections")
        for value in (0, 301, -1, 1.5, True, "7", None, 10**400, float("inf"), float("nan"), [7])
    ],
    *[
        ({"image": PICTURE, "max_detections": value}, FORM, 400, "invalid_option", "max_detections")
        for value in (b"", b"0", b"1.5", b"+-1", b"many", b"1e3")
    ],
    *[
        (option("mask_format", value), "", 400, "invalid_option", "mask_format")
        for value in ("RLE", "", None, 1, ["rle"], "rle ")
    ],
    *[
        (option("output", value), "", 400, "invalid_option", "output")
        for value in ("xml", "JSON", None, 0, {})
    ],
    *[
        (option("classes", value), "", 400, "unknown_class", "classes")
        for value in (
            "dog",
            "",
            "balloon,",
            ["balloon", None],
            4,
            -1,
            True,
            0.5,
            None,
            {},
            [[0]],
            ["all"],
            "00000000000",
        )
    ],
    (option("classes", []), "", 400, "invalid_option", "classes"),
    (
        {"image": PICTURE, "output": b"coco", "mask_format": b"png"},
        FORM,
        400,
        "invalid_option",
        "mask_format",
    ),
]


@pytest.mark.parametrize(
    ("parts", "content_type", "status", "code", "field"), REFUSED, ids=lambda v: ascii(v)[:50]
)
def test_refused(parts: dict[str, Any], content_type: str, status: int, code: str, field: str | None) -> None:
    with pytest.raises(RequestError) as refusal:
        read(parts, content_type)
    error = refusal.value
    assert (error.status, error.code, error.field) == (status, code, field)
    assert error.message.endswith((".", ".'"))
    assert error.message.isprintable()
    assert len(error.message) < 400
    assert error.body() == {"error": {"code": code, "message": error.message, "field": field}}


def test_an_operators_defaults_hold_for_requests_that_name_none() -> None:
    defaults = Options(score_threshold=0.7, output="coco")
    assert parse_options({"max_detections": 5}, CLASSES, defaults) == Options(0.7, 5, output="coco")
