"""``maskrcnn predict --format labelme`` and its like: what an annotation tool opens, and gives back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from finetune.data.dataset import load_split
from finetune.data.masks import to_rle
from handler.predict.pictures import outline_of
from handler.predict.writers import ANNOTATIONS
from maskrcnn import maskrcnn, run
from tests.handler.predict.archives import answers, invoke, write_bad_photos, write_photos
from tests.web_client.conftest import ask_tools


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory, real_archive: Path) -> Path:
    """A job of a dozen photos with nonsense instances of odd shapes, among them a GIF, a turned one and a bad one."""
    folder = tmp_path_factory.mktemp("predicted")
    paths = write_photos(folder / "photos", 12)
    with Image.open(paths[0]) as image:
        image.save(folder / "photos/moving.gif")
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(folder / "photos/turned.jpg", exif=exif)
    write_bad_photos(folder / "photos")["image_too_large"].unlink()
    result = invoke(real_archive, folder / "photos", "--output", folder / "out", "--score-threshold", 0.05)
    assert result.exit_code == 0, result.stderr
    return folder


@pytest.mark.parametrize("format_name", [*ANNOTATIONS, "coco"])
def test_unchanged_annotations_come_back_as_predicted(
    predicted: Path, real_archive: Path, tmp_path: Path, format_name: str
) -> None:
    arguments = (real_archive, predicted / "photos", "--output", predicted / "out", "--score-threshold", 0.05)
    result = invoke(*arguments, "--format", format_name)
    assert result.exit_code == 0, result.stderr
    if format_name == "coco":
        source = ["import", f"{predicted}/out/coco.json", "--images", f"{predicted}/photos"]
    else:
        assert result.stdout == f"{predicted}/out/{format_name}\n"
        source = ["import", f"{predicted}/out/{format_name}"]
    if format_name == "label-studio":  # as Label Studio exports predictions that were accepted
        path = predicted / "out/label-studio/train/label_studio.json"
        tasks = json.loads(path.read_text())
        assert not any(task["annotations"] for task in tasks)
        regions = [region for task in tasks for each in task["predictions"] for region in each["result"]]
        assert {(each["from_name"], each["type"]) for each in regions} == {
            ("polygon", "polygonlabels"),
            ("brush", "brushlabels"),
        }
        path.write_text(json.dumps([task | {"annotations": task["predictions"]} for task in tasks]))
    root = tmp_path / "back"
    rest = ["--root", str(root), "--val", "0", "--test", "0", "--skip-bad"]  # a data set has no GIFs
    assert run(maskrcnn, "maskrcnn", ["data", *source, *rest]) == 0
    back = {Path(record["file_name"]).stem: record for record in load_split(root, "train")}
    expected = {Path(each["photo"]).stem: each for each in answers(predicted / "out") if "error" not in each}
    assert back.keys() == expected.keys() - ({"moving"} if format_name == "coco" else set())
    ious = []
    for name, record in back.items():
        answer = expected[name]
        found = [each for each in answer["instances"] if each["area"]]
        for each, annotation in zip(found, record["annotations"], strict=True):
            assert annotation["category_id"] == each["class_id"]
            again = to_rle(annotation["segmentation"], answer["image"]["width"], answer["image"]["height"])
            ious.append(coco_mask.iou([again], [each["mask"]], [0])[0, 0])
    assert len(ious) > 50
    assert min(ious) >= 0.98


@pytest.mark.parametrize("format_name", ["labelme", "yolo", "label-studio", "cvat"])
def test_the_tools_own_packages_read_it(predicted: Path, real_archive: Path, format_name: str) -> None:
    arguments = (real_archive, predicted / "photos", "--output", predicted / "out", "--score-threshold", 0.05)
    assert invoke(*arguments, "--format", format_name).exit_code == 0
    back = ask_tools("read_export", format_name=format_name, folder=str(predicted / "out" / format_name))
    expected = {Path(each["photo"]).stem: each for each in answers(predicted / "out") if "error" not in each}
    assert {Path(name).stem for name in back} == expected.keys()
    for name, photo in back.items():
        answer = expected[Path(name).stem]
        found = [each for each in answer["instances"] if each["area"]]
        assert set(photo["labels"]) == {each["class_name"] for each in found}
        assert photo["size"] == [answer["image"]["height"], answer["image"]["width"]]
        union = coco_mask.merge([each["mask"] for each in found])
        assert not found or coco_mask.iou([photo["mask"]], [union], [0])[0, 0] >= 0.97


def test_a_mask_becomes_polygons_that_are_easy_to_correct_unless_it_has_holes() -> None:
    y, x = np.mgrid[:200, :200]
    disk = (x - 100) ** 2 + (y - 100) ** 2 < 80**2
    ring = disk & ((x - 100) ** 2 + (y - 100) ** 2 > 40**2)
    outlines = [outline_of(coco_mask.encode(np.asfortranarray(mask, np.uint8))) for mask in (disk, ring)]
    assert isinstance(outlines[0], list)
    assert len(outlines[0][0]) < 80, "40 points on an outline of 500 pixels"
    assert isinstance(outlines[1], dict)


def test_no_photo_that_could_be_predicted(tmp_path: Path, real_archive: Path) -> None:
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    result = invoke(real_archive, tmp_path / "torn.jpg", "--output", tmp_path / "out", "--format", "labelme")
    assert result.exit_code == 1
    assert "no photo could be predicted" in result.stderr
