"""Raw, multipart and JSON bodies, as TorchServe hands them over, and every way of getting them wrong."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest

from handler.api.errors import RequestError
from handler.api.options import Options, parse_options
from handler.api.request_parsing import parse_body

PICTURE = b"\xff\xd8\xff picture \x00\x01\xfe"
BASE64 = base64.b64encode(PICTURE).decode()
FORM = "multipart/form-data; boundary=x"
CLASSES = ["balloon", "kite", "7", "a, b"]


def read(parts: dict[str, Any], content_type: str = "") -> tuple[bytes, Options]:
    body = parse_body(parts, content_type)
    return body.image, parse_options(body.options, CLASSES)


JSON = "application/json"
BODIES = {
    "raw without a type": ({"body": bytearray(PICTURE)}, ""),
    "raw with one": ({"body": PICTURE}, "image/jpeg"),
    "raw as octets": ({"body": PICTURE}, "application/octet-stream"),
    "form: image": ({"image": bytearray(PICTURE)}, FORM),
    "form: data": ({"data": bytearray(PICTURE)}, FORM),
    "JSON": ({"body": {"image": BASE64}}, JSON),
    "JSON with a charset": ({"body": {"image": BASE64, "options": {}}}, f"{JSON}; charset=utf-8"),
    "data URI": ({"body": {"image": f"data:image/jpeg;base64,{BASE64}"}}, JSON),
    "data URI with parameters": ({"body": {"image": f"DATA:;charset=x;base64,{BASE64}"}}, JSON),
    "base64 in lines": ({"body": {"image": BASE64[:8] + "\r\n" + BASE64[8:] + "\n"}}, JSON),
    "JSON that nobody decoded": ({"body": f'{{"image": "{BASE64}"}}'.encode()}, JSON),
    "JSON without a type (curl -T)": ({"body": f' {{"image": "{BASE64}"}}'.encode()}, ""),
    "JSON as text": ({"body": f'{{"image": "{BASE64}"}}'}, "text/plain"),
}


@pytest.mark.parametrize(("parts", "content_type"), BODIES.values(), ids=BODIES)
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


def document(value: object) -> tuple[dict[str, Any], str]:
    return {"body": value}, JSON


def option(name: str, value: object) -> tuple[dict[str, Any], str]:
    return document({"image": BASE64, "options": {name: value}})


def form(**fields: object) -> tuple[dict[str, Any], str]:
    return {"image": PICTURE, **fields}, FORM


INFINITE = (float("nan"), float("inf"), 10**400, -(10**400))
THRESHOLDS = (*INFINITE, -0.01, 1.01, True, None, "0.5", [0.5], {})
THRESHOLD_TEXTS = (b"", "٠".encode(), *b"nan inf -1 0,5 0.5.5 0x1 1_0 1e999".split(), b"9" * 99)
COUNTS = (*INFINITE, 0, 3001, -1, 1.5, True, "7", None, [7])
NO_CLASSES = ("dog", "", "balloon,", ["balloon", None], 4, -1, True, 0.5, None, {}, [[0]], ["all"], "0" * 11)

REFUSED: list[tuple[tuple[dict[str, Any], str], int, str, str | None]] = [
    # the body
    *(
        (request, 400, "missing_image", "image")
        for request in (
            *(({"body": b""}, ""), ({}, FORM), ({"photo": PICTURE}, FORM), ({"body": PICTURE}, FORM)),
            *(form(image=value) for value in (b"", {"a": 1}, None)),
            *(document(value) for value in ({}, {"image": ""})),
        )
    ),
    (form(data=PICTURE), 400, "two_images", "data"),
    (({"body": PICTURE}, "multipart/form-data"), 400, "invalid_form", None),
    (({"image": PICTURE}, "application/x-www-form-urlencoded"), 415, "unsupported_media_type", None),
    (({"x\xd8": b""}, "Application/X-WWW-Form-Urlencoded; a=x"), 415, "unsupported_media_type", None),
    # JSON
    *(
        (document(value), 400, "invalid_json", None)
        for value in (b"{", b"\xff\xfe{", b"[" * 100_000, None, [1], "text")
    ),
    *(
        (document({"image": text}), 400, "invalid_base64", "image")
        for text in (None, "no base64!", "abc", "ä", "\ud800", "data:image/png,abc")
    ),
    (document({"image": BASE64, "extra": 1}), 400, "unknown_field", "extra"),
    (document({"image": BASE64, "output": "json"}), 400, "unknown_field", "output"),
    *((document({"image": BASE64, "options": o}), 400, "invalid_option", "options") for o in ([], None)),
    # options
    (option("treshold", 0.5), 400, "unknown_option", "treshold"),
    (option("a\nb", 0.5), 400, "unknown_option", "a\\nb"),
    (option("x" * 500, 0.5), 400, "unknown_option", "x" * 39 + "…"),
    (form(Output=b"json"), 400, "unknown_option", "Output"),
    (form(output=b"\xff\xfe"), 400, "invalid_option", "output"),
    *((option("score_threshold", v), 400, "invalid_option", "score_threshold") for v in THRESHOLDS),
    *((form(score_threshold=v), 400, "invalid_option", "score_threshold") for v in THRESHOLD_TEXTS),
    *((option("max_detections", v), 400, "invalid_option", "max_detections") for v in COUNTS),
    *(
        (form(max_detections=v), 400, "invalid_option", "max_detections")
        for v in (b"", *b"0 1.5 +-1 many 1e4".split())
    ),
    *(
        (option("mask_format", v), 400, "invalid_option", "mask_format")
        for v in ("RLE", "", None, 1, ["rle"], "rle ")
    ),
    *((option("output", v), 400, "invalid_option", "output") for v in ("xml", "JSON", None, 0, {})),
    *((option("classes", v), 400, "unknown_class", "classes") for v in NO_CLASSES),
    (option("classes", []), 400, "invalid_option", "classes"),
    (form(output=b"coco", mask_format=b"png"), 400, "invalid_option", "mask_format"),
]


@pytest.mark.parametrize(("request_", "status", "code", "field"), REFUSED, ids=lambda v: ascii(v)[:50])
def test_refused(request_: tuple[dict[str, Any], str], status: int, code: str, field: str | None) -> None:
    with pytest.raises(RequestError) as refusal:
        read(*request_)
    error = refusal.value
    assert (error.status, error.code, error.field) == (status, code, field)
    assert error.message.endswith((".", ".'"))
    assert error.message.isprintable()
    assert len(error.message) < 400
    assert error.body() == {"error": {"code": code, "message": error.message, "field": field}}


def test_an_operators_defaults_hold_for_requests_that_name_none() -> None:
    defaults = Options(score_threshold=0.7, output="coco")
    assert parse_options({"max_detections": 5}, CLASSES, defaults) == replace(defaults, max_detections=5)
