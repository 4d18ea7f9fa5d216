"""Bad input is refused in one plain sentence, without asking TorchServe."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image

from tests.web_client.conftest import refusal, send
from tests.web_client.stub import Stub, balloon_picture

PNG = b"\x89PNG\r\n\x1a\n"
HTML = {"Accept": "text/html,*/*;q=0.8"}


def png_that_claims(width: int, height: int) -> bytes:
    """A small PNG whose header claims any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    return PNG + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def eps() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "EPS")
    return out.getvalue()


NO_PICTURE = 415, "unsupported_media_type", "not a picture"
TOO_LARGE = 413, "image_too_large", "0.2 MB"
BAD: dict[str, tuple[bytes, tuple[int, str, str]]] = {
    "zero.jpg": (b"", (400, "empty_image", "empty (0 bytes)")),
    "notes.jpg": (b"this is text\n" * 9, NO_PICTURE),
    "half.png": (PNG, NO_PICTURE),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", NO_PICTURE),
    "drawing.eps": (eps(), NO_PICTURE),
    "large.png": (balloon_picture() + b"\0" * 300_000, TOO_LARGE),
    "huge.png": (b"\0" * 400_000, TOO_LARGE),
    "wide.png": (png_that_claims(3000, 2000), (422, "too_many_pixels", "3000 × 2000")),
    "bomb.png": (png_that_claims(15_000, 10_000), (422, "too_many_pixels", "15000 × 10000")),
    "bombs.png": (png_that_claims(60_000, 60_000), (422, "too_many_pixels", "60000 × 60000")),
}


@pytest.mark.parametrize(("tiles", "status"), [("", 422), ("0", 422), ("1024", 200)])
def test_a_picture_for_tiles_may_have_more_pixels(
    make_client: Callable[..., FlaskClient], tiles: str, status: int
) -> None:
    picture = {"image": (io.BytesIO(balloon_picture()), "a.png"), "tiles": tiles}
    assert make_client(MAX_PIXELS=1000).post("/api/predict", data=picture).status_code == status


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_is_refused_in_words(
    make_client: Callable[..., FlaskClient], stub: Stub, name: str
) -> None:
    """By the API, and on the page without JavaScript, with the form for another try."""
    data, (status, code, words) = BAD[name]
    client = make_client(MAX_BYTES=200_000, MAX_PIXELS=4_000_000)
    error = refusal(send(client, data, name=name), status, code)
    assert words in error["message"]
    assert error["field"] == "image"
    page = send(client, data, "/", HTML, name)
    assert page.status_code == status
    assert words in page.text
    assert 'name="image"' in page.text
    assert stub.requests == []


@pytest.mark.parametrize(
    "body", [{"data": b"\xff\xd8\xff", "content_type": "image/jpeg"}, {"json": {"image": "…"}}]
)
def test_another_kind_of_body(client: FlaskClient, body: dict[str, Any]) -> None:
    error = refusal(client.post("/api/predict", **body), 415, "unsupported_media_type")
    assert "named image" in error["message"]


@pytest.mark.parametrize(
    "form", [{"score_threshold": "0.5"}, {"image": "text"}, {"data": (io.BytesIO(b"x"), "x.png")}]
)
def test_no_picture_in_the_form(client: FlaskClient, form: dict[str, Any]) -> None:
    refusal(client.post("/api/predict", data=form, content_type="multipart/form-data"), 400, "missing_image")


def test_the_empty_field_of_a_form_sent_without_choosing(client: FlaskClient) -> None:
    response = send(client, b"", "/", HTML, name="")
    assert response.status_code == 400
    assert "Choose one first" in response.text


@pytest.mark.parametrize("kind", "JPEG PNG WEBP GIF BMP TIFF".split())
def test_every_named_format_is_taken(client: FlaskClient, kind: str) -> None:
    assert send(client, balloon_picture(kind=kind)).status_code == 200


def test_a_form_stuffed_with_fields_is_refused(client: FlaskClient) -> None:
    assert send(client, **{f"field{number}": "x" for number in range(50)}).status_code == 413
