"""finetune.data.photos: untrusted files and EXIF orientation."""

import numpy as np
import pytest
from PIL import Image

from finetune.data.photos import copy_upright, open_photo, photo_path, upright_size
from finetune.errors import UserError
from tests.finetune.data.samples import save_photo


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_copy_stands_as_detectron2_sees_the_original(tmp_path, orientation, suffix):
    from detectron2.data.detection_utils import read_image

    source = save_photo(tmp_path / f"a{suffix}", orientation=orientation)
    target = tmp_path / f"b{suffix}"
    copy_upright(source, target)
    if orientation == 1:
        assert source.read_bytes() == target.read_bytes()
    seen = read_image(str(source), "RGB")
    with Image.open(target) as image:
        copied = np.asarray(image.convert("RGB"))
        assert image.getexif().get(0x0112, 1) == 1
    with open_photo(source, decode=False) as image:
        assert upright_size(image) == (seen.shape[1], seen.shape[0])
    assert copied.shape == seen.shape
    # noise is the hardest case for JPEG: saving it again changes it a little, turning it wrongly by about 85
    assert np.abs(copied.astype(int) - seen).mean() < (6 if suffix == ".jpg" else 0.1)


def test_truncated_foreign_and_huge_files_are_refused(tmp_path):
    whole = save_photo(tmp_path / "a.jpg", 200, 200).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("not an image")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.gif")
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")  # refused by its header
    for name, message in {
        "cut.jpg": "truncated",
        "text.jpg": "not an image of the formats",
        "a.gif": "not an image of the formats",
        "none.jpg": "is missing",
        "bomb.png": "more than 80,000,000 pixels",
    }.items():
        with pytest.raises(UserError, match=message):
            open_photo(tmp_path / name)


def test_names_may_not_lead_out_of_the_folder(tmp_path):
    save_photo(tmp_path / "secret.png")
    save_photo(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "link.png").symlink_to(tmp_path / "secret.png")
    assert photo_path(tmp_path / "photos", "a.png").is_file()
    assert photo_path(tmp_path / "photos", "link.png").is_file()
    for name in ("../secret.png", "..\\secret.png", "x/../../secret.png", str(tmp_path / "secret.png")):
        with pytest.raises(UserError, match="outside"):
            photo_path(tmp_path / "photos", name)
