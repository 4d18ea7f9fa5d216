"""Bad input is refused in one plain sentence, without asking TorchServe."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image

from tests.web_client.stub import Stub, balloon_picture
from web_client.app import create_app


def png_that_claims(width: int, height: int) -> bytes:
    """A small PNG whose header claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


def eps() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "EPS")
    return out.getvalue()


BAD = [
    ("zero.jpg", b"", 400, "empty_image", "empty (0 bytes)"),
    ("notes.jpg", b"this is text\n" * 9, 415, "unsupported_media_type", "not a picture"),
    ("half.png", b"\x89PNG\r\n\x1a\n", 415, "unsupported_media_type", "not a picture"),
    (
        "drawing.svg",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        415,
        "unsupported_media_type",
        "not a picture",
    ),
    ("drawing.eps", eps(), 415, "unsupported_media_type", "not a picture"),
    ("large.png", balloon_picture() + b"\0" * 300_000, 413, "image_too_large", "0.2 MB"),
    ("huge.png", b"\0" * 400_000, 413, "image_too_large", "0.2 MB"),
    ("wide.png", png_that_claims(3000, 2000), 422, "too_many_pixels", "3000 × 2000"),
    ("bomb.png", png_that_claims(15_000, 10_000), 422, "too_many_pixels", "15000 × 10000"),
    ("bombs.png", png_that_claims(60_000, 60_000), 422, "too_many_pixels", "60000 × 60000"),
]


@pytest.mark.parametrize(("tiles", "status"), [("", 422), ("0", 422), ("1024", 200)])
def test_a_picture_for_tiles_may_have_more_pixels(
    config: dict[str, Any], stub: Stub, tiles: str, status: int
) -> None:
    client = create_app(config | {"MAX_PIXELS": 1000}).test_client()
    picture = {"image": (io.BytesIO(balloon_picture()), "a.png"), "tiles": tiles}
    assert client.post("/api/predict", data=picture).status_code == status


@pytest.fixture
def small(config: dict[str, Any]) -> FlaskClient:
    """A server with limits of 200 kB and 4 million pixels."""
    return create_app(config | {"MAX_BYTES": 200_000, "MAX_PIXELS": 4_000_000}).test_client()


@pytest.mark.parametrize(("name", "data", "status", "code", "words"), BAD, ids=[row[0] for row in BAD])
def test_a_bad_picture_is_refused_in_words(
    small: FlaskClient, stub: Stub, name: str, data: bytes, status: int, code: str, words: str
) -> None:
    response = small.post("/api/predict", data={"image": (io.BytesIO(data), name)})
    error = response.get_json()["error"]
    assert (response.status_code, error["code"], error["field"]) == (status, code, "image")
    assert words in error["message"]
    assert stub.requests == []


@pytest.mark.parametrize(("name", "data", "status", "code", "words"), BAD, ids=[row[0] for row in BAD])
def test_without_javascript_the_same_words_stand_on_the_page(
    small: FlaskClient, name: str, data: bytes, status: int, code: str, words: str
) -> None:
    response = small.post(
        "/", data={"image": (io.BytesIO(data), name)}, headers={"Accept": "text/html,*/*;q=0.8"}
    )
    assert response.status_code == status
    assert words in response.text
    assert 'name="image"' in response.text  # the form is there for another try


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({"data": b"\xff\xd8\xff", "content_type": "image/jpeg"}, "named image"),
        ({"json": {"image": "…"}}, "named image"),
    ],
)
def test_another_kind_of_body(client: FlaskClient, kind: dict[str, Any], words: str) -> None:
    response = client.post("/api/predict", **kind)
    assert response.status_code == 415
    assert words in response.get_json()["error"]["message"]


@pytest.mark.parametrize(
    "form", [{"score_threshold": "0.5"}, {"image": "text"}, {"data": (io.BytesIO(b"x"), "x.png")}]
)
def test_no_picture_in_the_form(client: FlaskClient, form: dict[str, Any]) -> None:
    response = client.post("/api/predict", data=form, content_type="multipart/form-data")
    assert response.status_code == 400
    assert response.get_json()["error"]["code"] == "missing_image"


def test_the_empty_field_of_a_form_sent_without_choosing(client: FlaskClient) -> None:
    response = client.post("/", data={"image": (io.BytesIO(b""), "")}, headers={"Accept": "text/html"})
    assert response.status_code == 400
    assert "Choose one first" in response.text


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_named_format_is_taken(client: FlaskClient, kind: str) -> None:
    response = client.post(
        "/api/predict", data={"image": (io.BytesIO(balloon_picture(kind=kind)), "picture")}
    )
    assert response.status_code == 200


def test_a_form_stuffed_with_fields_is_refused(client: FlaskClient) -> None:
    form = {f"field{number}": "x" for number in range(50)}
    response = client.post("/api/predict", data=form | {"image": (io.BytesIO(balloon_picture()), "a.png")})
    assert response.status_code == 413
