"""Untrusted bytes → RGB, or a refusal with the right code."""

from __future__ import annotations

import importlib
import io
import random
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handler.api.errors import RequestError
from handler.imaging import decode
from handler.imaging.decode import MAX_JPEG_SCANS, check_scans, decode_image
from tests.corpus.pictures import scans
from tests.handler import awkward
from tests.handler.awkward import BLUE, GREEN, RED, WHITE, corners, save

CAPS = {"max_pixels": 1_000_000}


def quarters(rgb: np.ndarray) -> list[tuple[int, ...]]:
    """The colors in the middles of the four quarters, rounded to what JPEG keeps."""
    height, width = rgb.shape[:2]
    points = [(height // 4, width // 4), (height // 4, 3 * width // 4), (3 * height // 4, width // 4)]
    points.append((3 * height // 4, 3 * width // 4))
    return [tuple(round(int(v) / 15) * 15 for v in rgb[point]) for point in points]


GOOD = {
    "JPEG": save(corners(), "JPEG", quality=95),
    "progressive JPEG": save(corners(), "JPEG", quality=95, progressive=True),
    "MPO": save(corners(), "MPO", quality=95, save_all=True, append_images=[Image.new("RGB", (60, 40))]),
    "JPEG with a thumbnail": awkward.with_thumbnail(),
    "JPEG with something behind it": save(corners(), "JPEG", quality=95) + b"\x00" * 50,
    "CMYK JPEG": save(corners().convert("CMYK"), "JPEG", quality=95),
    "CMYK TIFF": save(corners().convert("CMYK"), "TIFF"),
    "PNG": save(corners(), "PNG"),
    "palette": awkward.palette(transparent=False),
    "WebP": save(corners(), "WEBP", lossless=True),
    "BMP": save(corners(), "BMP"),
    "TIFF": save(corners(), "TIFF"),
    "TIFF, deflate": save(corners(), "TIFF", compression="tiff_deflate"),
    "TIFF, several pages": save(corners(), "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))]),
    "GIF": save(corners(), "GIF"),
    "animated GIF": awkward.animation("GIF"),
    "animated WebP": awkward.animation("WEBP"),
    "animated PNG": awkward.animation("PNG"),
    **{f"JPEG, orientation {i}": awkward.oriented(i) for i in range(1, 9)},
    **{f"{kind}, orientation 6": awkward.oriented(6, kind) for kind in ("PNG", "WEBP", "TIFF")},
}


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD)
def test_a_picture_is_decoded_as_a_person_sees_it(data: bytes) -> None:
    rgb = decode_image(data, **CAPS)
    assert rgb.shape == (40, 60, 3)
    assert rgb.dtype == np.uint8
    assert rgb.flags.c_contiguous
    assert quarters(rgb) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (save(corners().convert("L"), "JPEG", quality=95), [75, 150, 30, 255]),
        (save(corners().convert("1"), "PNG"), None),
        (save(corners().convert("L"), "PNG"), [75, 150, 30, 255]),
        (awkward.gray16(), [15, 255, 15, 255]),
        (awkward.gray16_big_endian_tiff(), [15, 255, 15, 255]),
    ],
    ids=["gray JPEG", "one bit", "gray PNG", "16-bit PNG", "16-bit big-endian TIFF"],
)
def test_gray_has_three_equal_channels(data: bytes, expected: list[int] | None) -> None:
    rgb = decode_image(data, **CAPS)
    assert (rgb == rgb[:, :, :1]).all()
    if expected:
        assert quarters(rgb) == [(v, v, v) for v in expected]


def test_16_bit_samples_keep_their_upper_8_bits() -> None:
    for data in (awkward.gray16(), awkward.gray16_big_endian_tiff()):
        assert decode_image(data, **CAPS)[0, [0, 59], 0].tolist() == [0x12, 0xFE]
    assert decode_image(awkward.rgb16(), **CAPS)[0, 0].tolist() == [0x80, 0x20, 0xFF]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (awkward.rgba(), [(255, 120, 120), GREEN, WHITE, WHITE]),
        (awkward.palette(transparent=True), [RED, GREEN, WHITE, WHITE]),
        (save(corners(), "PNG", transparency=BLUE), [RED, GREEN, WHITE, WHITE]),
    ],
    ids=["RGBA", "palette", "one colour"],
)
def test_transparent_parts_lie_on_white(data: bytes, expected: list[tuple[int, ...]]) -> None:
    assert quarters(decode_image(data, **CAPS)) == expected


def cut(data: bytes, share: float = 0.6) -> bytes:
    return data[: int(len(data) * share)]


BAD = {
    "no picture": (b"just some text", 415, "unsupported_media_type"),
    "PDF": (b"%PDF-1.7 ...", 415, "unsupported_media_type"),
    "PPM, which Pillow knows and we do not take": (save(corners(), "PPM"), 415, "unsupported_media_type"),
    "32-bit float TIFF": (save(Image.new("F", (60, 40)), "TIFF"), 415, "unsupported_media_type"),
    **{
        f"cut {name}": (cut(GOOD[name], share), 400, "undecodable_image")
        for name, share in {
            **dict.fromkeys(
                ["JPEG", "progressive JPEG", "CMYK JPEG", "PNG", "WebP", "BMP", "TIFF, deflate"], 0.6
            ),
            "JPEG with a thumbnail": 0.9,
            "GIF": 0.4,
        }.items()
    },
    "JPEG's first bytes": (GOOD["JPEG"][:20], 400, "undecodable_image"),
    "PNG's signature": (GOOD["PNG"][:8], 400, "undecodable_image"),
    "JPEG signature, then junk": (b"\xff\xd8\xff" + b"junk" * 50, 400, "undecodable_image"),
    "too many pixels": (save(Image.new("L", (1001, 1000)), "PNG"), 422, "too_many_pixels"),
    **{
        f"{kind} bomb": (awkward.bomb(kind), 422, "too_many_pixels") for kind in ("PNG", "JPEG", "BMP", "GIF")
    },
    "JPEG of thousands of scans": (scans(1000, 1000, 60_000), 422, "too_many_scans"),
    "a line": (save(Image.new("L", (5000, 7)), "PNG"), 422, "image_too_narrow"),
}


@pytest.mark.parametrize(("data", "status", "code"), BAD.values(), ids=BAD)
# Pillow's, before it gives up on a TIFF
@pytest.mark.filterwarnings("ignore:Truncated File Read:UserWarning")
def test_a_bad_picture_is_refused(data: bytes, status: int, code: str) -> None:
    with pytest.raises(RequestError) as refusal:
        decode_image(data, **CAPS)
    assert (refusal.value.status, refusal.value.code, refusal.value.field) == (status, code, "image")
    assert "/" not in refusal.value.message


def test_what_lies_behind_a_jpeg_is_not_looked_at() -> None:
    """A motion photo: random bytes hold a start-of-scan marker in every 64 KiB."""
    picture = save(corners(), "JPEG")
    video = np.random.default_rng(0).bytes(9 * 2**20)
    assert video.count(b"\xff\xda") > MAX_JPEG_SCANS
    assert (decode_image(picture + video, **CAPS) == decode_image(picture, **CAPS)).all()


def test_a_jpeg_that_is_cut_short_is_refused_whatever_its_thumbnail_ends_with() -> None:
    thumbnail = save(corners(), "JPEG")
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00" + thumbnail
    whole = save(corners(), "JPEG", exif=exif)
    assert check_scans(whole)
    assert not check_scans(whole[:-40])
    with pytest.raises(RequestError):
        decode_image(whole[:-40], **CAPS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF"])
def test_a_bomb_costs_no_memory(kind: str) -> None:
    """900 million pixels are judged from the header: nothing of their size is ever allocated."""
    data = awkward.bomb(kind)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (proc(5))
    before = peak_kilobytes()
    with pytest.raises(RequestError):
        decode_image(data, **CAPS)
    assert peak_kilobytes() - before < 50_000, "decoded it would be 2.7 GB"


def peak_kilobytes() -> int:
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line)


def test_decoding_neither_changes_nor_needs_a_warning_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow only warns of a bomb up to twice its own limit
        before = list(warnings.filters)
        importlib.reload(decode)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # the corners have 2,400
        with pytest.raises(RequestError, match="2,300"):
            decode.decode_image(GOOD["PNG"], max_pixels=2300)
        assert warnings.filters == before


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_is_none_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert decode_image(save(corners(), "JPEG", exif=exif), **CAPS).shape == (40, 60, 3)


def test_corrupt_metadata_do_not_spoil_a_good_picture() -> None:
    data = save(corners(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff garbage")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in production, where Pillow's remarks go to the log
        assert decode_image(data, **CAPS).shape == (40, 60, 3)


@pytest.mark.parametrize("name", ["JPEG", "progressive JPEG", "JPEG with a thumbnail"])
def test_a_cut_jpeg_is_refused_with_an_opencv_that_would_take_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV 4 fills the missing part with gray, OpenCV 5 refuses."""
    monkeypatch.setattr("cv2.imdecode", lambda *_: np.zeros((40, 60, 3), np.uint8))
    decode_image(GOOD[name], **CAPS)
    with pytest.raises(RequestError):
        decode_image(cut(GOOD[name], 0.95), **CAPS)


def test_jpegs_decode_as_pillow_decodes_them() -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (333, 517, 3), dtype=np.uint8)).resize((1034, 666))
    for settings in ({"quality": 90}, {"quality": 60, "subsampling": 2}, {"progressive": True}):
        data = save(noise, "JPEG", **settings)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(decode_image(data, **CAPS), expected)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_corruption_gets_past_the_decoder_unnamed() -> None:
    """Thousands of flipped, cut and spliced files: a picture comes out or a RequestError, nothing else."""
    dice = random.Random(0)
    names = list(GOOD)
    refused = 0
    for _ in range(1500):
        data = bytearray(GOOD[dice.choice(names)])
        for _ in range(dice.choice((1, 3, 30))):
            data[dice.randrange(len(data))] = dice.randrange(256)
        if dice.random() < 0.3:
            data = data[: dice.randrange(1, len(data))]
        try:
            shape = decode_image(bytes(data), **CAPS).shape
        except RequestError as error:
            refused += 1
            shape = (1, error.status, 3)
        assert shape[2:] == (3,)
    assert refused > 100


def test_threads_decode_side_by_side() -> None:
    def work(name: str) -> None:
        for _ in range(20):
            assert quarters(decode_image(GOOD[name], **CAPS)) == [RED, GREEN, BLUE, WHITE]
            with pytest.raises(RequestError):
                decode_image(awkward.bomb("PNG"), **CAPS)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, ("JPEG", "PNG", "WebP", "CMYK JPEG")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_half_size(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = save(corners().resize((121, 81)), "JPEG", exif=exif)
    whole = decode_image(data, **CAPS)
    half, size = decode.decode_at_least(
        data, CAPS["max_pixels"], lambda height, width: (height // 2, width // 2)
    )
    assert size == whole.shape[:2]
    assert half.shape == (-(-size[0] // 2), -(-size[1] // 2), 3)
    assert quarters(half) == quarters(whole)
    needed = decode.decode_at_least(data, CAPS["max_pixels"], lambda height, width: (height // 2 + 1, 1))
    np.testing.assert_array_equal(needed[0], whole)
