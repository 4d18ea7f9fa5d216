"""`data from-review`: from the store of the page to an annotation tool, and back into the data set."""

import json
from pathlib import Path

import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from finetune.data.dataset import class_names, read_photos
from finetune.data.formats import FORMATS
from tests.finetune.data.samples import run, via_folder
from tests.web_client.stub import balloon_picture, find_balloons, reply_for
from web_client.api.review import ReviewStore
from web_client.api.uploads import Picture


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A photo with objects of 0.95 and 0.84, turned by EXIF; and one that the model found nothing in."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = balloon_picture(120, 90, [(30, 30, 15), (80, 50, 20)], kind="JPEG", quality=95, exif=exif)
    kept = ReviewStore(tmp_path / "store", 10**9, 30)
    for data, kind, reason in (
        (turned, "image/jpeg", "uncertain"),
        (balloon_picture(60, 50, []), "image/png", "wrong"),
    ):
        answer = reply_for("v1", *find_balloons(data))
        assert answer["image"]["width"] in (90, 60)
        answer["instances"] += [each | {"area": 0} for each in answer["instances"][:1]]  # no annotation
        kept.keep(Picture(data, "x", kind), answer, reason, score_threshold=0.9, classes=["balloon", "kite"])
    return tmp_path / "store"


@pytest.mark.parametrize("name", FORMATS)
def test_a_tool_opens_the_photos_with_the_answers(
    store: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / name
    assert run("data", "from-review", store, "--root", out, "--format", name) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out}\n"
    assert "photos: 2, flagged as wrong: 1; objects: 1" in captured.err
    assert (
        run(*f"data import {out} --root {tmp_path / 'set'} --val 0 --test 0".split(), "--format", name) == 0
    )
    photos = {photo.name.partition("-")[2]: photo for photo in read_photos(tmp_path / "set", "train")}
    assert photos["wrong.png"].instances == []
    (instance,) = photos["uncertain.jpg"].instances
    (answer,) = (json.loads(path.read_text()) for path in store.glob("*-uncertain/answer.json"))
    (expected,) = [
        each["mask"] for each in answer["answer"]["instances"] if each["score"] >= 0.9 and each["area"]
    ]
    rle = instance.segmentation
    if isinstance(rle, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(rle, 120, 90))
    assert coco_mask.iou([rle], [expected], [0])[0, 0] >= 0.98


def test_the_corrected_photos_join_the_data_set(store: Path, tmp_path: Path) -> None:
    """A photo is corrected in labelme, the other one has nothing to find; both go into train."""
    assert (
        run("data", "import", via_folder(tmp_path / "photos", 8, kind="balloon"), "--root", tmp_path / "old")
        == 0
    )
    out = tmp_path / "labelme"
    assert run("data", "from-review", store, "--root", out, "--format", "labelme") == 0
    (path,) = out.rglob("*-uncertain.json")
    content = json.loads(path.read_text())
    content["shapes"][0]["label"] = "kite"
    path.write_text(json.dumps(content))
    assert run("data", "import", out, "--root", tmp_path / "new", "--val", 0, "--test", 0) == 0
    assert run("data", "merge", tmp_path / "old", tmp_path / "new", "--root", tmp_path / "merged") == 0
    assert class_names(tmp_path / "merged") == ["balloon", "kite"]
    assert len(read_photos(tmp_path / "merged", "train")) == len(read_photos(tmp_path / "old", "train")) + 2


def test_a_corrected_file_whose_photo_is_gone(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "labelme"
    assert run("data", "from-review", store, "--root", out, "--format", "labelme") == 0
    next(out.rglob("*.jpg")).unlink()
    capsys.readouterr()
    assert run("data", "import", out, "--root", tmp_path / "new") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "names the photo" in error
    assert "put it there or remove it from the annotations" in error


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("answer.json", "it is not valid JSON"),
        ("photo", "does not hold a photo and an answer to it: delete it"),
        ("all", "holds no photos: collect some with `maskrcnn web --review"),
    ],
)
def test_a_damaged_store_is_one_sentence(
    store: Path, tmp_path: Path, damage: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if damage == "answer.json":
        next(store.rglob("answer.json")).write_text("{")
    elif damage == "photo":
        next(store.rglob("photo.*")).unlink()
    else:
        store = tmp_path / "nowhere"
    assert run("data", "from-review", store, "--root", tmp_path / "out", "--format", "coco") == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
