"""Downloads against a real HTTP server: cached, resumed, verified, refused."""

import hashlib
import http.server
import threading
from pathlib import Path
from urllib.parse import urlsplit

import detectron2
import pytest

from finetune.checkpoints import model_zoo
from finetune.checkpoints.model_zoo import CHECKSUMS, PUBLISHED, fetch
from finetune.errors import UserError

CONTENT = bytes(range(256)) * 4000


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT under any name, with ranges; cuts the first answer short when told."""

    cut_after: int | None = None
    requests: list[tuple[str, str | None]]

    def do_GET(self):
        type(self).requests.append((self.path, self.headers.get("Range")))
        if "missing" in self.path:
            self.send_error(404)
            return
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut, type(self).cut_after = type(self).cut_after, None
        self.wfile.write(body[:cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path / "cache"))
    handler = type("Fresh", (Handler,), {"requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        server.url = f"http://127.0.0.1:{server.server_port}"
        server.handler = handler
        yield server
        server.shutdown()
        thread.join()


def test_download_is_cached(server):
    path = fetch(f"{server.url}/model.pth?dl=1", "resnet50_fpn")
    assert path.read_bytes() == CONTENT
    assert path.suffix == ".pth"
    assert fetch(f"{server.url}/model.pth?dl=1", "resnet50_fpn") == path
    assert len(server.handler.requests) == 1


def test_two_urls_of_one_file_name_do_not_mix(server):
    assert fetch(f"{server.url}/a/model.pth", "resnet50_fpn") != fetch(
        f"{server.url}/b/model.pth", "resnet50_fpn"
    )


def test_cut_connection_is_resumed(server):
    server.handler.cut_after = 300_000
    with pytest.raises(UserError, match="the same command goes on from there"):
        fetch(f"{server.url}/model.pth", "resnet50_fpn")
    assert fetch(f"{server.url}/model.pth", "resnet50_fpn").read_bytes() == CONTENT
    first, second = server.handler.requests
    assert first[1] is None
    assert second[1].startswith("bytes=")
    assert int(second[1][6:-1]) > 0


def test_checksum_prefix(server, monkeypatch):
    digest = hashlib.md5(CONTENT).hexdigest()
    monkeypatch.setitem(CHECKSUMS, "model.pkl", ("md5", digest[:6]))
    assert fetch(f"{server.url}/model.pkl", "resnet50_fpn").read_bytes() == CONTENT


def test_wrong_checksum_removes_the_file(server, tmp_path):
    with pytest.raises(UserError, match=r"sha256 begins with .*, not b0353104"):
        fetch(f"{server.url}/mobilenet_v2-b0353104.pth", "mobilenetv2_fpn")
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == [".lock"]


def test_unreachable_names_the_file_and_its_place(server, tmp_path):
    with pytest.raises(UserError) as error:
        fetch(f"{server.url}/missing.pth", "resnet50_fpn")
    message = str(error.value)
    assert f"{server.url}/missing.pth" in message
    assert str(tmp_path / "cache" / "weights") in message
    assert message.count("\n") == 0


def test_a_file_put_there_by_hand_is_taken(server, tmp_path, monkeypatch):
    monkeypatch.setitem(PUBLISHED, ("resnet50_fpn", "coco"), f"{server.url}/missing/model_final_0.pkl")
    place = tmp_path / "cache" / "weights" / "model_final_0.pkl"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"by hand")
    assert fetch("coco", "resnet50_fpn").read_bytes() == b"by hand"
    assert server.handler.requests == []


def test_detectron2_urls_are_expanded(server, monkeypatch):
    monkeypatch.setattr(model_zoo, "_ZOO", f"{server.url}/detectron2/")
    fetch("detectron2://ImageNetPretrained/MSRA/R-50.pkl", "resnet50_fpn")
    assert server.handler.requests[0][0] == "/detectron2/ImageNetPretrained/MSRA/R-50.pkl"


def test_file_url_and_path_are_used_where_they_lie(tmp_path):
    path = tmp_path / "with space.pth"
    assert fetch(path.as_uri(), "resnet50_fpn") == path
    assert fetch(str(path), "resnet50_fpn") == path


@pytest.mark.parametrize(("backbone", "spec"), PUBLISHED)
def test_published_urls_are_files_that_we_can_read(backbone, spec):
    parts = urlsplit(PUBLISHED[backbone, spec])
    assert parts.scheme == "https"
    assert parts.path.endswith((".pkl", ".pth"))


@pytest.mark.parametrize(("backbone", "name"), [("resnet50_fpn", "R_50"), ("resnet101_fpn", "R_101")])
def test_zoo_urls_are_detectron2s_own(backbone, name):
    # its source is read, not imported: it wants the deprecated pkg_resources
    zoo = (Path(detectron2.__file__).parent / "model_zoo" / "model_zoo.py").read_text()
    config = f"COCO-InstanceSegmentation/mask_rcnn_{name}_FPN_3x"
    prefix, _, suffix = PUBLISHED[backbone, "coco"].partition(f"{config}/")
    assert f'"{config}": "{suffix}"' in zoo
    assert f'S3_PREFIX = "{prefix}"' in zoo
