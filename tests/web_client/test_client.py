"""The Python client, against the real web server in front of the stub."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from pycocotools import mask as coco_mask

from handler.predict.cli import predict
from maskrcnn import Rooms
from tests.web_client.conftest import serving
from tests.web_client.stub import Stub, balloon_picture
from web_client.app import create_app
from web_client.client import Client, ClientError, decode_rle
from web_client.server.tokens import TokenFile


@pytest.fixture
def url(config: dict[str, Any]) -> Iterator[str]:
    with serving(create_app(config)) as address:
        yield address


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(balloon_picture(300, 200))
    return path


def test_masks_are_arrays(url: str, photo: Path, stub: Stub) -> None:
    prediction = Client(url).predict(photo, score_threshold=0.3, classes=["balloon"])
    assert (prediction.width, prediction.height) == (300, 200)
    assert prediction.instances
    for instance, entry in zip(prediction.instances, prediction.document["instances"], strict=True):
        assert instance.mask is not None
        assert instance.mask.shape == (200, 300)
        assert instance.mask.dtype == bool
        assert (instance.mask == coco_mask.decode(entry["mask"]).astype(bool)).all()
        assert instance.mask.sum() == instance.area
    assert stub.requests[-1]["options"]["score_threshold"] == "0.3"


def test_run_lengths_equal_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for *size, share in ((1, 1, 0.5), (7, 300, 0.9), (90, 40, 0.02), (64, 64, 0.5), (5, 6, 0.0), (5, 6, 1.0)):
        mask = rng.random(size) < share
        rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        assert (decode_rle({"size": rle["size"], "counts": rle["counts"].decode()}) == mask).all()


def test_two_hundred_photos_from_twenty_threads(url: str, tmp_path: Path) -> None:
    paths = []
    for number in range(200):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(balloon_picture(100 + number % 50, 60 + number // 50))
    found = list(Client(url).predict_many(paths, workers=20))
    assert [path for path, _ in found] == paths
    for number, (_, prediction) in enumerate(found):
        assert not isinstance(prediction, ClientError), prediction
        assert (prediction.width, prediction.height) == (100 + number % 50, 60 + number // 50)


def test_a_busy_server_is_asked_again(
    url: str, photo: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("web_client.client.time.sleep", waits.append)
    stub.next_mode = "no_worker"
    assert Client(url).predict(photo).instances
    assert waits == [5.0]
    stub.mode = "no_worker"
    with pytest.raises(ClientError) as refused:
        Client(url, patience=1).predict(photo)
    assert (refused.value.status, refused.value.code) == (503, "model_busy")


def test_a_refusal_names_code_and_field(url: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(ClientError, match="not a picture") as refused:
        Client(url).predict(broken)
    error = refused.value
    assert (error.status, error.code, error.field) == (415, "unsupported_media_type", "image")
    ((_, error),) = Client(url).predict_many([broken])
    assert isinstance(error, ClientError)


def test_tokens(config: dict[str, Any], photo: Path, tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path / "tokens.json")
    secret = tokens.add("program")
    with serving(create_app(config | {"TOKEN_FILE": str(tokens.path)})) as address:
        assert Client(address, secret).predict(photo).instances
        with pytest.raises(ClientError, match="valid token"):
            Client(address).models()


def test_another_server_is_recognized(stub: Stub, photo: Path) -> None:
    with pytest.raises(ClientError, match="does not speak version 1 of this API"):
        Client(stub.url).predict(photo)


def test_it_needs_only_requests_and_numpy() -> None:
    code = """
import sys
import web_client.client
for name in ("flask", "PIL", "cv2", "torch", "pycocotools", "yaml", "click"):
    assert name not in sys.modules, name
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_predict_with_an_address(config: dict[str, Any], tmp_path: Path, stub: Stub) -> None:
    """``maskrcnn predict http://…``: the service's answers, a row for a bad photo, and a sentence without a token."""
    tokens = TokenFile(tmp_path / "tokens.json")
    token = tokens.add("anna")
    (tmp_path / "photos").mkdir()
    for i in range(3):
        (tmp_path / f"photos/{i}.png").write_bytes(balloon_picture(300, 200 + i))
    (tmp_path / "photos/text.jpg").write_text("text")
    with serving(create_app(config | {"TOKEN_FILE": str(tokens.path)})) as url:
        arguments = [url, str(tmp_path / "photos"), "--output", f"{tmp_path}/out", "--score-threshold", "0.3"]
        refused = CliRunner().invoke(predict, arguments, obj=Rooms())
        assert refused.exit_code == 1
        assert "check the address and --token" in refused.stderr
        result = CliRunner().invoke(
            predict, [*arguments, "--overlay"], obj=Rooms(), env={"MASKRCNN_TOKEN": token}
        )
        assert result.exit_code == 0, result.stderr
        expected = Client(url, token).predict(tmp_path / "photos/0.png", score_threshold=0.3)
    assert {request["options"]["score_threshold"] for request in stub.requests} == {"0.3"}
    coco = json.loads((tmp_path / "out/coco.json").read_text())
    assert [Path(image["file_name"]).name for image in coco["images"]] == ["0.png", "1.png", "2.png"]
    found = [each["segmentation"] for each in coco["annotations"] if each["image_id"] == 1]
    assert found == [each["mask"] for each in expected.document["instances"]] != []
    assert [Path(error["file_name"]).name for error in coco["errors"]] == ["text.jpg"]
    assert len(list((tmp_path / "out/overlays").iterdir())) == 3
