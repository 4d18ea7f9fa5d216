"""finetune.data.photos: untrusted files and EXIF orientation."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.data.photos import copy_upright, open_photo, photo_path, upright_size
from finetune.errors import UserError
from tests.finetune.data.samples import save_photo


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_copy_stands_as_detectron2_sees_the_original(tmp_path: Path, orientation: int, suffix: str) -> None:
    from detectron2.data.detection_utils import read_image

    source = save_photo(tmp_path / f"a{suffix}", orientation=orientation)
    target = tmp_path / f"b{suffix}"
    copy_upright(source, target)
    seen = read_image(str(source), "RGB")
    with Image.open(target) as image:
        copied = np.asarray(image.convert("RGB"))
        assert image.getexif().get(0x0112, 1) == 1
    with open_photo(source, decode=False) as image:
        assert upright_size(image) == (seen.shape[1], seen.shape[0])
    assert copied.shape == seen.shape
    # noise is the hardest case for JPEG: saving it again changes it a little, turning it wrongly by about 85
    assert np.abs(copied.astype(int) - seen).mean() < (6 if suffix == ".jpg" else 0.1)


def test_an_upright_photo_is_copied_byte_by_byte(tmp_path: Path) -> None:
    source = save_photo(tmp_path / "a.jpg")
    copy_upright(source, tmp_path / "b.jpg")
    assert source.read_bytes() == (tmp_path / "b.jpg").read_bytes()


def test_truncated_foreign_and_huge_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = save_photo(tmp_path / "a.jpg", 200, 200).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="truncated"):
        open_photo(tmp_path / "cut.jpg")
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(UserError, match="not an image of the formats"):
        open_photo(tmp_path / "text.jpg")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.gif")
    with pytest.raises(UserError, match="not an image of the formats"):
        open_photo(tmp_path / "a.gif")
    with pytest.raises(UserError, match="is missing"):
        open_photo(tmp_path / "none.jpg")
    monkeypatch.setattr("finetune.data.photos.MAX_PIXELS", 100)
    with pytest.raises(UserError, match="more than 100 pixels"):
        open_photo(tmp_path / "a.jpg", decode=False)


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")
    with pytest.raises(UserError, match="more than 80,000,000 pixels"):
        open_photo(tmp_path / "bomb.png")


def test_names_may_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    save_photo(tmp_path / "secret.png")
    save_photo(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "link.png").symlink_to(tmp_path / "secret.png")
    assert photo_path(tmp_path / "photos", "a.png").is_file()
    assert photo_path(tmp_path / "photos", "link.png").is_file()
    for name in ("../secret.png", "..\\secret.png", "x/../../secret.png", str(tmp_path / "secret.png")):
        with pytest.raises(UserError, match="outside"):
            photo_path(tmp_path / "photos", name)
