"""Where published checkpoints are, and under which name they are kept."""

from pathlib import Path

import detectron2
import pytest

from finetune.checkpoints import model_zoo
from finetune.checkpoints.model_zoo import PUBLISHED, fetch
from finetune.errors import UserError
from tests.finetune.file_server import serving


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path / "cache"))
    with serving(b"weights") as running:
        yield running


def test_two_urls_of_one_file_name_do_not_mix(server):
    one, other = (fetch(f"{server.url}/{place}/model.pth?dl=1", "resnet50_fpn") for place in "ab")
    assert one != other
    assert one.suffix == ".pth"


def test_a_known_file_is_verified(server, tmp_path):
    with pytest.raises(UserError, match=r"sha256 begins with .*, not b0353104"):
        fetch(f"{server.url}/mobilenet_v2-b0353104.pth", "mobilenetv2_fpn")
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == [".lock"]


def test_a_file_put_there_by_hand_is_taken(server, tmp_path, monkeypatch):
    monkeypatch.setitem(PUBLISHED, ("resnet50_fpn", "coco"), f"{server.url}/missing/model_final_0.pkl")
    place = tmp_path / "cache" / "weights" / "model_final_0.pkl"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"by hand")
    assert fetch("coco", "resnet50_fpn").read_bytes() == b"by hand"
    assert server.requests == []


def test_detectron2_urls_are_expanded(server, monkeypatch):
    monkeypatch.setattr(model_zoo, "_ZOO", f"{server.url}/detectron2/")
    fetch("detectron2://ImageNetPretrained/MSRA/R-50.pkl", "resnet50_fpn")
    assert server.requests[0][0] == "/detectron2/ImageNetPretrained/MSRA/R-50.pkl"


def test_file_url_and_path_are_used_where_they_lie(tmp_path):
    path = tmp_path / "with space.pth"
    assert fetch(path.as_uri(), "resnet50_fpn") == path
    assert fetch(str(path), "resnet50_fpn") == path


@pytest.mark.parametrize(("backbone", "name"), [("resnet50_fpn", "R_50"), ("resnet101_fpn", "R_101")])
def test_zoo_urls_are_detectron2s_own(backbone, name):
    # its source is read, not imported: it wants the deprecated pkg_resources
    zoo = (Path(detectron2.__file__).parent / "model_zoo" / "model_zoo.py").read_text()
    config = f"COCO-InstanceSegmentation/mask_rcnn_{name}_FPN_3x"
    prefix, _, suffix = PUBLISHED[backbone, "coco"].partition(f"{config}/")
    assert f'"{config}": "{suffix}"' in zoo
    assert f'S3_PREFIX = "{prefix}"' in zoo
